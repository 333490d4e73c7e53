//! QEMU: its arguments, its process, and the protocol to speak with it.
