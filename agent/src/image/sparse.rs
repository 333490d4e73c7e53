//! Writes files in which blocks of zeros take no space.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use super::{ImageError, archive::Fault};

/// The block of the file systems this runs on; holes are of whole blocks.
const BLOCK: usize = 4096;
const BUFFER: usize = 256 << 10;

/// Copies exactly `size` bytes of `reader` to a new file at `path`.
///
/// Everyone may read the file, since QEMU runs as a user of its own, and nobody may write it.
pub(super) fn write(path: &Path, size: u64, reader: &mut impl Read) -> Result<(), Fault> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
        .map_err(ImageError::storage("create", path))?;
    let mut buffer = vec![0; BUFFER];
    let mut position = 0;
    while position < size {
        let wanted = usize::try_from(size - position).map_or(BUFFER, |left| left.min(BUFFER));
        let chunk = &mut buffer[..wanted];
        reader.read_exact(chunk)?;
        write_data(&file, position, chunk).map_err(ImageError::storage("write", path))?;
        position += wanted as u64;
    }
    // A hole at the end is not written, so the length has to be said.
    file.set_len(size).map_err(ImageError::storage("write", path))?;
    Ok(())
}

/// Writes the runs of blocks that hold data.
fn write_data(file: &File, position: u64, chunk: &[u8]) -> io::Result<()> {
    let mut run_start = None;
    for (block, start) in chunk.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        match (is_zero(block), run_start) {
            (false, None) => run_start = Some(start),
            (true, Some(from)) => {
                file.write_all_at(&chunk[from..start], position + from as u64)?;
                run_start = None;
            }
            _ => {}
        }
    }
    match run_start {
        Some(from) => file.write_all_at(&chunk[from..], position + from as u64),
        None => Ok(()),
    }
}

/// In words that the compiler can compare with vector instructions.
fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| word.iter().fold(0, |sum, byte| sum | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    fn written(content: &[u8]) -> (Vec<u8>, u64) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, content.len() as u64, &mut &content[..]).unwrap();
        (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().blocks() * 512)
    }

    #[test]
    fn zeros_take_no_space_wherever_they_are() {
        let mut content = vec![0; 8 << 20];
        content[1 << 20] = 1;
        content[(5 << 20) + 100] = 2;
        let (read, stored) = written(&content);
        assert!(read == content);
        assert!(stored <= 64 << 10, "{stored} bytes are stored for two blocks of data");
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let ended = write(&directory.path().join("file"), 10, &mut &b"short"[..]);
        assert!(matches!(ended, Err(Fault::Stream(error)) if error.kind() == io::ErrorKind::UnexpectedEof));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_written_is_read_back(runs in prop::collection::vec((any::<bool>(), 1_usize..70_000), 0..12)) {
            let content: Vec<u8> = runs.iter()
                .flat_map(|(data, length)| std::iter::repeat_n(u8::from(*data), *length)).collect();
            prop_assert!(written(&content).0 == content);
        }
    }
}
