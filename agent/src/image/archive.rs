//! Reads tar archives (POSIX ustar and pax, GNU long names) entry by entry, with bounded memory whatever they claim.
//!
//! Headers are the `tar` crate's. Its own iteration is not used: it reads long names and pax records of any length into
//! memory.

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

use super::ImageError;

const BLOCK: usize = 512;
/// Long names and pax records together; a path has at most 4096 bytes.
const EXTENSION_LIMIT: u64 = 64 << 10;

/// Why unpacking ended.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes ended early, or are not what the media type says. If the blob's hash is wrong too, that is the news.
    Stream(io::Error),
    /// Anything else: decided, whatever follows in the stream.
    Final(ImageError),
}

impl From<io::Error> for Fault {
    /// A reader in between can hand through a decision of its own.
    fn from(error: io::Error) -> Self {
        match error.downcast::<ImageError>() {
            Ok(decided) => Self::Final(decided),
            Err(error) => Self::Stream(error),
        }
    }
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        Self::Final(error)
    }
}

/// What an archive has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    /// Bytes of content; 0 for all but files.
    pub(super) size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Device,
}

/// A tar archive.
pub(super) struct Archive<R> {
    reader: R,
    /// Content of the current entry that was not read yet, and what pads it to a block.
    content: u64,
    padding: u64,
}

/// What extension headers say about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

fn malformed(what: impl Into<String>) -> Fault {
    Fault::Stream(io::Error::new(io::ErrorKind::InvalidData, what.into()))
}

impl<R: Read> Archive<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, content: 0, padding: 0 }
    }

    /// The next entry; what was not read of the one before is skipped. None at the archive's end, after which the
    /// stream has been read whole.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|reason| malformed(format!("a tar header's size: {reason}")))?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name(size)?),
                EntryType::XHeader => self.pax_records(size, &mut extensions)?,
                EntryType::XGlobalHeader => self.enter(size)?,
                kind => return self.entry(&header, kind, size, extensions).map(Some),
            }
        }
    }

    /// The current entry's content.
    pub(super) fn content(&mut self) -> impl Read {
        Content(self)
    }

    fn entry(&mut self, header: &Header, kind: EntryType, size: u64, extensions: Extensions) -> Result<Entry, Fault> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || extensions.link.or_else(|| header.link_name_bytes().map(Into::into)).unwrap_or_default();
        let kind = match kind {
            // The oldest archives tell a directory by the slash alone.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink(link()),
            EntryType::Link => EntryKind::HardLink(link()),
            EntryType::Char | EntryType::Block | EntryType::Fifo => EntryKind::Device,
            EntryType::GNUSparse => return Err(sparse(&path).into()),
            other => {
                return Err(ImageError::refused(format!(
                    "{} is of the unknown tar type {:?}",
                    show(&path),
                    char::from(other.as_byte())
                ))
                .into());
            }
        };
        // Only files have content; others may carry a size that means nothing.
        let size = if kind == EntryKind::File { extensions.size.unwrap_or(size) } else { 0 };
        self.enter(size)?;
        Ok(Entry { path, kind, size })
    }

    /// None at the end: two blocks of zeros, or the stream's end in their place.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            self.expect_zeros()?;
            return Ok(None);
        }
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let bytes = header.as_bytes();
        let computed = sum(&bytes[..148]) + 8 * u32::from(b' ') + sum(&bytes[156..]);
        match header.cksum() {
            Ok(stated) if stated == computed => Ok(Some(header)),
            _ => Err(malformed("a tar header's checksum is wrong: this is not a tar archive, or a damaged one")),
        }
    }

    /// False where the stream ends before the block's first byte.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Fault> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(malformed("the tar archive ends within a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Archives are padded with zeros to some record size; anything else after the end would be read by some and not
    /// by others.
    fn expect_zeros(&mut self) -> Result<(), Fault> {
        let mut buffer = [0; 8192];
        loop {
            match self.reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) if buffer[..count].iter().all(|byte| *byte == 0) => {}
                Ok(_) => return Err(malformed("data follows the tar archive's end")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn enter(&mut self, size: u64) -> Result<(), Fault> {
        let padded = size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| malformed("a tar entry has no end"))?;
        self.content = size;
        self.padding = padded - size;
        Ok(())
    }

    fn skip(&mut self) -> Result<(), Fault> {
        let rest = self.content.saturating_add(self.padding);
        let skipped = io::copy(&mut self.reader.by_ref().take(rest), &mut io::sink())?;
        if skipped < rest {
            return Err(malformed("the tar archive ends within an entry"));
        }
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        if size > EXTENSION_LIMIT {
            return Err(ImageError::refused(format!(
                "a tar header names a path or has attributes of {size} bytes: {EXTENSION_LIMIT} are the most"
            ))
            .into());
        }
        self.enter(size)?;
        let mut bytes = Vec::new();
        self.content().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        let mut name = self.extension(size)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn pax_records(&mut self, size: u64, extensions: &mut Extensions) -> Result<(), Fault> {
        let records = self.extension(size)?;
        for record in PaxExtensions::new(&records) {
            let record = record?;
            match record.key_bytes() {
                b"path" => extensions.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => extensions.link = Some(record.value_bytes().to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    extensions.size = Some(size.ok_or_else(|| malformed("a pax record's size is not a number"))?);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(sparse(extensions.path.as_deref().unwrap_or(b"an entry")).into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn sparse(path: &[u8]) -> ImageError {
    ImageError::refused(format!(
        "{} is a sparse tar entry: pack it without `--sparse`; zeros become holes here by themselves",
        show(path)
    ))
}

/// A path from an archive, safe to show.
pub(super) fn show(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut shown: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

struct Content<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.0.content).map_or(buffer.len(), |left| left.min(buffer.len()));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.0.reader.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tar archive ends within a file"));
        }
        self.0.content -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
