//! What guests are for, end to end: the real agent, real QEMU, real networks.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod guests {
    mod certificates;
    mod command_line;
    mod debian;
    mod kill;
    mod life;
    mod main_job;
    mod overhead;
    mod refusals;
    mod watch;
}
