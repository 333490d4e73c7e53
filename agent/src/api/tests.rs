//! The services as callers see them: a real server on a real Unix socket, with the real ledger behind it.

mod errors;
mod guests;
mod inspect;
mod networks;
mod served;
mod watch;
