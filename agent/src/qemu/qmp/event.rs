//! What QEMU tells unasked.

use serde_json::Value;

/// An event. QEMU's of other versions may have kinds and fields that our schema does not know; they are passed on as
/// they are.
#[derive(Debug, Clone)]
pub enum QmpEvent {
    /// One that the schema knows.
    Known(Box<qapi_qmp::Event>),
    /// Any other.
    Other {
        /// Its kind, such as `BLOCK_IO_ERROR`.
        name: String,
        /// Its data, or null.
        data: Value,
    },
}

impl QmpEvent {
    pub(super) fn parse(name: &str, mut message: Value) -> Self {
        match serde_json::from_value(message.clone()) {
            Ok(event) => Self::Known(Box::new(event)),
            Err(_) => Self::Other { name: name.to_owned(), data: message["data"].take() },
        }
    }
}
