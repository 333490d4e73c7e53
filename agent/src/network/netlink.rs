//! One rtnetlink socket: requests in batches, dumps.
//!
//! A round trip for each message would be most of the cost of ten thousand entries, so many go in one packet, and only
//! the last of a packet asks for an acknowledgement: the kernel works in order and reports every failure anyway.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
        NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// If all of a packet's messages fail, the answers must fit the receive buffer, each with the kernel's bookkeeping.
const MESSAGES_IN_PACKET: usize = 128;
/// A dump that changed while it was read is read again, this often.
const DUMP_ATTEMPTS: u32 = 5;
/// An error's answer repeats the header of the request.
const MESSAGE_HEADER: usize = 16;
/// The kernel's explanation (`NLMSGERR_ATTR_MSG`).
const EXPLANATION: u16 = 1;

/// A netlink request could not be made or understood.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself.
    #[error("cannot talk to the kernel by netlink")]
    Socket(#[source] io::Error),
    /// The kernel said no to a dump.
    #[error("the kernel refused to list {0}")]
    Refused(&'static str, #[source] io::Error),
    /// The kernel speaks in a way that we do not understand.
    #[error("the kernel's netlink answer is not understood: {0}")]
    Malformed(String),
    /// Somebody else kept changing what was being listed.
    #[error("the list of {0} changed each time it was read")]
    Unsteady(&'static str),
}

/// One message and how it is meant.
#[derive(Debug, Clone)]
pub(super) struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    /// Changes or removes what is there.
    pub(super) fn change(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: 0 }
    }

    /// Makes what is not there.
    pub(super) fn create(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    /// Makes it, or puts it in the place of what is there.
    pub(super) fn put(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: NLM_F_CREATE | NLM_F_REPLACE }
    }

    /// Makes one more of what may be there several times.
    pub(super) fn append(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: NLM_F_CREATE | NLM_F_APPEND }
    }
}

/// A request that the kernel refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Which request of the batch.
    pub(super) request: usize,
    /// The kernel's error number.
    pub(super) code: i32,
    /// The kernel's error, with its explanation where it gave one.
    pub(super) reason: io::Error,
}

/// A socket of the network namespace in which it was opened, wherever it is used.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    received: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            socket.set_ext_ack(true)?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(NetlinkError::Socket)?, sequence: 0, received: vec![0; 64 * 1024] })
    }

    /// Sends all requests in order; one that is refused does not keep the others from being done.
    pub(super) fn batch(&mut self, requests: &[Request]) -> Result<Vec<Refusal>, NetlinkError> {
        let mut refusals = Vec::new();
        let mut packet = Vec::new();
        for (chunk, requests) in requests.chunks(MESSAGES_IN_PACKET).enumerate() {
            packet.clear();
            let first = self.sequence.wrapping_add(1);
            for (position, request) in requests.iter().enumerate() {
                let acknowledge = if position + 1 == requests.len() { NLM_F_ACK } else { 0 };
                self.append(&mut packet, request.message.clone(), request.flags | acknowledge);
            }
            self.socket.send(&packet, 0).map_err(NetlinkError::Socket)?;
            self.collect(first, chunk * MESSAGES_IN_PACKET, &mut refusals)?;
        }
        Ok(refusals)
    }

    /// One request.
    pub(super) fn request(&mut self, request: Request) -> Result<Result<(), io::Error>, NetlinkError> {
        Ok(self.batch(&[request])?.pop().map_or(Ok(()), |refusal| Err(refusal.reason)))
    }

    /// Everything of a kind; `what` is for errors.
    pub(super) fn dump(
        &mut self,
        what: &'static str,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(what, message)? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Unsteady(what))
    }

    fn append(&mut self, packet: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = packet.len().next_multiple_of(4);
        packet.resize(start + message.buffer_len(), 0);
        message.serialize(&mut packet[start..]);
    }

    /// Reads until the last request of a packet is answered.
    fn collect(
        &mut self,
        first_sequence: u32,
        first_request: usize,
        refusals: &mut Vec<Refusal>,
    ) -> Result<(), NetlinkError> {
        loop {
            let length = self.receive()?;
            for message in messages(&self.received[..length]) {
                let message = message?;
                let sequence = message.header.sequence_number;
                let position = sequence.wrapping_sub(first_sequence);
                // An answer to an earlier packet: nobody waits for it.
                if position > self.sequence.wrapping_sub(first_sequence) {
                    continue;
                }
                if let NetlinkPayload::Error(error) = &message.payload {
                    if error.code.is_some() {
                        let reason = explained(error.to_io(), &error.header);
                        let code = error.raw_code().abs();
                        refusals.push(Refusal { request: first_request + position as usize, code, reason });
                    }
                    if sequence == self.sequence {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// None: what was listed changed meanwhile.
    fn dump_once(
        &mut self,
        what: &'static str,
        message: &RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        let mut packet = Vec::new();
        self.append(&mut packet, message.clone(), NLM_F_DUMP);
        self.socket.send(&packet, 0).map_err(NetlinkError::Socket)?;
        let mut found = Vec::new();
        let mut steady = true;
        loop {
            let length = self.receive()?;
            for message in messages(&self.received[..length]) {
                let message = message?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                steady &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(NetlinkError::Refused(what, explained(error.to_io(), &error.header)));
                    }
                    NetlinkPayload::Done(_) => return Ok(steady.then_some(found)),
                    _ => {}
                }
            }
        }
    }

    fn receive(&mut self) -> Result<usize, NetlinkError> {
        loop {
            match self.socket.recv(&mut &mut self.received[..], 0) {
                Ok(length) => return Ok(length.min(self.received.len())),
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => return Err(NetlinkError::Socket(reason)),
            }
        }
    }
}

type Message = NetlinkMessage<RouteNetlinkMessage>;

/// The messages of a packet from the kernel.
fn messages(mut packet: &[u8]) -> impl Iterator<Item = Result<Message, NetlinkError>> {
    std::iter::from_fn(move || {
        let (length, rest) = packet.split_first_chunk::<4>()?;
        let length = u32::from_ne_bytes(*length) as usize;
        if length < MESSAGE_HEADER || length > rest.len() + 4 {
            packet = &[];
            return Some(Err(NetlinkError::Malformed(format!("a message claims to have {length} bytes"))));
        }
        let message = &packet[..length];
        packet = packet.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message::deserialize(message).map_err(|reason| NetlinkError::Malformed(reason.to_string())))
    })
}

/// The kernel's own words beside its error number.
fn explained(reason: io::Error, answer: &[u8]) -> io::Error {
    let attributes = answer.get(MESSAGE_HEADER..).unwrap_or_default();
    let explanation = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == EXPLANATION);
    match explanation.and_then(|attribute| std::str::from_utf8(attribute.value()).ok().map(str::to_owned)) {
        Some(text) => io::Error::new(reason.kind(), format!("{reason}: {}", text.trim_end_matches('\0'))),
        None => reason,
    }
}
