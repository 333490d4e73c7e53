//! qemu-guest-agent: a few words with a program inside the guest, which may be absent, slow or lying.

use std::{io, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

/// Why the guest agent was of no use.
#[derive(Debug, thiserror::Error)]
pub enum GuestAgentError {
    /// QEMU is not there, or someone else's connection was closed under it.
    #[error("cannot reach the guest agent")]
    Connection(#[from] io::Error),
    /// No (sensible) answer in time.
    #[error("the guest agent did not answer within {limit:?}")]
    Timeout {
        /// How long it was waited for.
        limit: Duration,
    },
    /// It said no.
    #[error("the guest agent refused: {description}")]
    Refused {
        /// Its words.
        description: String,
    },
}

/// Of a line from the guest.
const LINE_LIMIT: u64 = 64 << 10;
/// Starts a conversation anew, for both sides (`guest-sync-delimited`).
const DELIMITER: u8 = 0xff;

/// A conversation with the guest agent. QEMU has one at a time, so keep it short.
#[derive(Debug)]
pub struct GuestAgent {
    stream: BufReader<UnixStream>,
}

impl GuestAgent {
    /// Connects and makes sure that someone answers, and that it is to us.
    pub async fn connect(socket: &Path, limit: Duration) -> Result<Self, GuestAgentError> {
        let connecting = async {
            let mut agent = Self { stream: BufReader::new(UnixStream::connect(socket).await?) };
            agent.synchronise().await?;
            Ok(agent)
        };
        timeout(limit, connecting).await.unwrap_or(Err(GuestAgentError::Timeout { limit }))
    }

    /// Asks the guest to power itself off. It answers only when it refuses.
    pub async fn shut_down(mut self, limit: Duration) -> Result<(), GuestAgentError> {
        let asking = async {
            self.send(&json!({"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}})).await?;
            self.answer().await
        };
        match timeout(limit, asking).await {
            Ok(Err(GuestAgentError::Connection(reason))) if reason.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Ok(answer) => answer.map(|_| ()),
            Err(_) => Ok(()),
        }
    }

    async fn synchronise(&mut self) -> Result<(), GuestAgentError> {
        // Answers to an earlier conversation, which may still come, have another number.
        let id = u64::from(uuid::Uuid::new_v4().as_fields().0);
        self.stream.get_mut().write_all(&[DELIMITER]).await?;
        self.send(&json!({"execute": "guest-sync-delimited", "arguments": {"id": id}})).await?;
        loop {
            self.skip_to_delimiter().await?;
            match self.answer().await {
                Ok(answer) if answer.as_u64() == Some(id) => return Ok(()),
                Ok(_) | Err(GuestAgentError::Refused { .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn send(&mut self, message: &Value) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{message}\n").as_bytes()).await
    }

    async fn skip_to_delimiter(&mut self) -> io::Result<()> {
        while self.stream.read_u8().await? != DELIMITER {}
        Ok(())
    }

    async fn answer(&mut self) -> Result<Value, GuestAgentError> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(LINE_LIMIT).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut message: Value = serde_json::from_slice(&line).unwrap_or_default();
        if let Some(answer) = message.get_mut("return") {
            return Ok(answer.take());
        }
        let description = message["error"]["desc"].as_str().unwrap_or("with words that are none").to_owned();
        Err(GuestAgentError::Refused { description })
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// Plays the guest: reads the request for synchronisation, then says what it is told to say of its id.
    async fn talk(answer: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Result<GuestAgent, GuestAgentError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let guest = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            assert_eq!(stream.read_u8().await.unwrap(), DELIMITER);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let request: Value = serde_json::from_str(&line).unwrap();
            let answer = answer(request["arguments"]["id"].as_u64().unwrap());
            let _ = stream.write_all(&answer).await;
            // Keep it open until the other side has had its time.
            let _ = timeout(Duration::from_millis(500), stream.read_u8()).await;
        };
        let (connected, ()) = tokio::join!(GuestAgent::connect(&path, Duration::from_millis(300)), guest);
        connected
    }

    fn said(text: &str) -> Vec<u8> {
        [&[DELIMITER], text.as_bytes(), b"\n"].concat()
    }

    #[tokio::test]
    async fn what_was_left_over_from_earlier_is_passed_by() {
        let connected = talk(|id| {
            let stale = said(&format!("{{\"return\": {}}}", id.wrapping_add(1)));
            [b"{\"return\": {}}\n".to_vec(), stale, said("no json"), said(&format!("{{\"return\": {id}}}"))].concat()
        });
        assert!(connected.await.is_ok());
    }

    #[tokio::test]
    async fn silence_and_noise_end_with_the_time_limit() {
        assert!(matches!(talk(|_| Vec::new()).await, Err(GuestAgentError::Timeout { .. })));
        assert!(matches!(talk(|_| vec![b'x'; 100_000]).await, Err(GuestAgentError::Timeout { .. })));
        let unanswered = talk(|_| vec![DELIMITER; 100_000]).await;
        assert!(matches!(unanswered, Err(GuestAgentError::Timeout { .. })), "{unanswered:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_at_once() {
        let nobody = GuestAgent::connect(Path::new("/nonexistent/agent.sock"), Duration::from_secs(9)).await;
        assert!(matches!(nobody, Err(GuestAgentError::Connection(_))));
    }
}
