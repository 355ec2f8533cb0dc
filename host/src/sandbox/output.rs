//! What a child prints: taken from its pipe so that it never waits, counted, and the end of it kept.

use std::{
    collections::VecDeque,
    io::{self, PipeReader, Read},
};

/// How much of the end is kept, in bytes.
const KEPT_BYTES: usize = 64 << 10;

/// The reading end of a child's standard output and error.
pub(super) struct Output {
    /// None once the child has closed its end.
    pipe: Option<PipeReader>,
    kept: VecDeque<u8>,
    bytes: u64,
    bytes_max: u64,
}

/// The child printed more than it may.
pub(super) struct TooMuch {
    /// What it may, in bytes.
    pub bytes_max: u64,
}

impl Output {
    /// Takes a pipe whose reads do not wait.
    pub(super) fn new(pipe: PipeReader, bytes_max: u64) -> Output {
        Output { pipe: Some(pipe), kept: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// The pipe, to wait for.
    pub(super) fn pipe(&self) -> Option<&PipeReader> {
        self.pipe.as_ref()
    }

    /// Takes what is there.
    pub(super) fn drain(&mut self) -> Result<(), TooMuch> {
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(length @ 1..) => {
                    self.bytes += length as u64;
                    self.kept.extend(&buffer[..length]);
                    self.kept.drain(..self.kept.len().saturating_sub(KEPT_BYTES));
                    if self.bytes > self.bytes_max {
                        return Err(TooMuch { bytes_max: self.bytes_max });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => self.pipe = None,
            }
        }
        Ok(())
    }

    /// The end of what was printed.
    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn output(bytes_max: u64) -> (Output, io::PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        (Output::new(reader, bytes_max), writer)
    }

    #[test]
    fn the_end_is_kept_and_the_bound_holds() {
        let (mut output, mut writer) = output(100_000);
        writer.write_all(&[b'a'; 40_000]).unwrap();
        assert!(output.drain().is_ok());
        writer.write_all(&[b'b'; 40_000]).unwrap();
        writer.write_all(b"the end").unwrap();
        assert!(output.drain().is_ok());
        assert_eq!(output.text().len(), KEPT_BYTES);
        assert!(output.text().ends_with("the end"));
        writer.write_all(&[b'c'; 40_000]).unwrap();
        assert!(output.drain().is_err());
    }

    #[test]
    fn a_closed_pipe_is_not_waited_for() {
        let (mut output, writer) = output(10);
        drop(writer);
        assert!(output.drain().is_ok());
        assert!(output.pipe().is_none());
    }
}
