//! A guest's serial console, as a person would use it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use goliath_proto::agent::v1::{ConsoleOpen, ConsoleRequest, ConsoleResponse, console_request::Message};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::agent::Client;

/// What the tiny image prints when it waits for a line.
const PROMPT: &str = "goliath> ";
/// What its answer to `help`, and to what it does not understand, has in it.
const HELP: &str = "commands: ";
/// A command of the tiny image takes three tries of a second at most; a busy machine is slower.
const LIMIT: Duration = Duration::from_secs(20);

/// An open console.
#[derive(Debug)]
pub struct Console {
    input: mpsc::Sender<ConsoleRequest>,
    output: Streaming<ConsoleResponse>,
    seen: String,
}

impl Console {
    /// Opens a guest's console.
    pub async fn open(client: &Client, uid: &str) -> Result<Self> {
        let (input, requests) = mpsc::channel(16);
        let open = ConsoleRequest { message: Some(Message::Open(ConsoleOpen { uid: uid.to_owned() })) };
        input.send(open).await?;
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let output = client.inspect().console(requests).await?.into_inner();
        Ok(Self { input, output, seen: String::new() })
    }

    /// Sends a line.
    pub async fn send(&self, line: &str) -> Result<()> {
        let input = Message::Input(format!("{line}\n").into_bytes());
        let sent = self.input.send(ConsoleRequest { message: Some(input) });
        sent.await.context("the console was closed")
    }

    /// Reads until a text comes, and gives what came before it.
    pub async fn expect(&mut self, text: &str) -> Result<String> {
        self.expect_within(LIMIT, text).await
    }

    /// As [`Console::expect`], with a time limit of its own.
    pub async fn expect_within(&mut self, limit: Duration, text: &str) -> Result<String> {
        let expected = tokio::time::timeout(limit, self.read_until(text));
        match expected.await {
            Ok(before) => before,
            Err(_) => bail!("the console did not say {text:?}; it said {:?}", self.seen),
        }
    }

    /// Sends a line that ends the guest, and waits until the console has shown it or is closed.
    pub async fn last_command(mut self, line: &str) -> Result<()> {
        self.until_prompt().await?;
        self.send(line).await?;
        match tokio::time::timeout(LIMIT, self.read_until(line)).await {
            Ok(_) => Ok(()),
            Err(_) => bail!("the console did not take {line:?}; it said {:?}", self.seen),
        }
    }

    /// Sends a line to the tiny image's shell and gives what it printed until the next prompt.
    pub async fn command(&mut self, line: &str) -> Result<String> {
        self.until_prompt().await?;
        let mark = format!("{line}\r\n");
        self.send(line).await?;
        self.expect(&mark).await?;
        self.expect(PROMPT).await
    }

    /// Waits until the tiny image's shell waits for a line. A prompt alone tells nothing: it may stand there since the
    /// start, with another to come. So it is made to say something, and the prompt after that is the last one.
    async fn until_prompt(&mut self) -> Result<()> {
        self.send("help").await?;
        self.expect(HELP).await?;
        self.expect(PROMPT).await?;
        Ok(())
    }

    async fn read_until(&mut self, text: &str) -> Result<String> {
        loop {
            if let Some(start) = self.seen.find(text) {
                let before = self.seen.get(..start).unwrap_or_default().to_owned();
                self.seen.drain(..start + text.len());
                return Ok(before);
            }
            match self.output.message().await? {
                Some(response) => self.seen.push_str(&String::from_utf8_lossy(&response.output)),
                None => bail!("the console was closed before it said {text:?}; it said {:?}", self.seen),
            }
        }
    }
}
