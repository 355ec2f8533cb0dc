//! What crosses between parent and child: frames, each a kind, a length and bytes.

use std::io::{self, Read, Write};

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// To the child, the first: its limits.
    Confine = b'C' as isize,
    /// From the child: it is confined, and how.
    Ready = b'R' as isize,
    /// To the child: a question.
    Request = b'Q' as isize,
    /// From the child: something that it needs to go on.
    Need = b'N' as isize,
    /// To the child: what it needed.
    Given = b'G' as isize,
    /// From the child: what it is about to do. Not answered.
    Doing = b'D' as isize,
    /// From the child: the answer to a question.
    Answer = b'A' as isize,
}

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Confine, Kind::Ready, Kind::Request, Kind::Need, Kind::Given, Kind::Doing, Kind::Answer];

    fn of(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The length of a frame's head: its kind, and the length of what follows as eight bytes, the lowest first.
pub(super) const HEAD_BYTES: usize = 9;

/// The longest frame that a parent takes from a child, in bytes. What a child is given is not bounded here.
pub(super) const FROM_CHILD_BYTES_MAX: u64 = 64 << 20;

/// The head of a frame.
pub(super) fn head(kind: Kind, length: usize) -> [u8; HEAD_BYTES] {
    let mut head = [kind as u8; HEAD_BYTES];
    head[1..].copy_from_slice(&(length as u64).to_le_bytes());
    head
}

/// Reads a head; none if it is no head.
pub(super) fn parse_head(head: [u8; HEAD_BYTES]) -> Option<(Kind, u64)> {
    let [kind, length @ ..] = head;
    Some((Kind::of(kind)?, u64::from_le_bytes(length)))
}

/// Writes a frame to a socket that waits.
pub(super) fn write(mut to: impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    to.write_all(&head(kind, bytes.len()))?;
    to.write_all(bytes)
}

/// Reads a frame from a parent, over a socket that waits; none if the parent has nothing more to say.
pub(super) fn read(mut from: impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; HEAD_BYTES];
    match from.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (kind, length) = parse_head(head).ok_or(io::ErrorKind::InvalidData)?;
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact(&mut bytes)?;
    Ok(Some((kind, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_out_as_it_went_in() {
        for kind in Kind::ALL {
            let mut bytes = Vec::new();
            write(&mut bytes, kind, b"abc").unwrap();
            assert_eq!(read(&bytes[..]).unwrap(), Some((kind, b"abc".to_vec())));
        }
        assert_eq!(read(&b""[..]).unwrap(), None);
    }

    #[test]
    fn what_is_no_frame_is_not_taken_for_one() {
        assert_eq!(parse_head(*b"garbage, "), None);
        assert!(read(&b"garbage, and more"[..]).is_err());
        assert!(read(&head(Kind::Given, 10)[..]).is_err(), "it ends within");
    }
}
