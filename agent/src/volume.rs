//! What a guest mounts or reads at boot: its disks and its seed.
