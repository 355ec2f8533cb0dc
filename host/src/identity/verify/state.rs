//! How far a verification has come, in a file, so that one that was interrupted can be gone on with: everything that the history has said up
//! to there. Numbers are little-endian; at the end stands the blake3 of all before. A file that is not what was written, or is of
//! another identity, is as good as none.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
    sync::Arc,
};

use rustc_hash::FxHashMap;
use theseus_value::ObjectId;

use super::{
    super::{BaseDigest, BaseMark, Head, IdentityId, RecordHash, StorageError, Tid},
    Damage,
    requests::Request,
    seen::{Seen, slot},
    walk::Walk,
};

/// What the file begins with. It changes with the format: a verification begins anew then.
const MAGIC: [u8; 16] = *b"theseus verify 1";

/// Writes the file, and replaces the one that is there.
pub(super) fn save(path: &Path, identity: IdentityId, walk: &Walk) -> Result<(), StorageError> {
    let made = path.with_extension("tmp");
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut out =
            Hashed { inner: BufWriter::with_capacity(1 << 20, File::create(&made)?), hasher: blake3::Hasher::new() };
        write_walk(&mut out, identity, walk)?;
        let hash = out.hasher.finalize();
        out.inner.write_all(hash.as_bytes())?;
        out.inner.flush()?;
        fs::rename(&made, path)
    };
    write().map_err(|source| StorageError::Io { path: path.to_owned(), source })
}

/// Reads the file; none if it is not there, not whole, or of another identity.
pub(super) fn load(path: &Path, identity: IdentityId) -> Option<Walk> {
    let file = File::open(path).ok()?;
    // Nothing is taken for a length before it is known that the file is what was written.
    let mut whole = Hashed { inner: BufReader::with_capacity(1 << 20, &file), hasher: blake3::Hasher::new() };
    let content = file.metadata().ok()?.len().checked_sub(32)?;
    io::copy(&mut (&mut whole).take(content), &mut io::sink()).ok()?;
    let hash = whole.hasher.finalize();
    let mut stored = [0; 32];
    whole.inner.read_exact(&mut stored).ok()?;
    if *hash.as_bytes() != stored {
        return None;
    }
    let mut again = BufReader::with_capacity(1 << 20, File::open(path).ok()?);
    read_walk(&mut again, identity).ok()?
}

/// Hashes what goes through it.
struct Hashed<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.hasher.update(&bytes[..read]);
        Ok(read)
    }
}

fn write_walk(out: &mut impl Write, identity: IdentityId, walk: &Walk) -> io::Result<()> {
    let Walk { head, base, batches, transactions, bytes, graph, requests, broken, damage, .. } = walk;
    out.write_all(&MAGIC)?;
    out.write_all(&identity.0)?;
    let (packed, digest) = base.map_or((Head::default(), [0; 32]), |base| (base.head, base.digest.0));
    for bytes in [head.hash.0, packed.hash.0, digest] {
        out.write_all(&bytes)?;
    }
    numbers(out, &[packed.tid.0])?;
    numbers(out, &[head.tid.0, *batches, *transactions, *bytes, u64::from(*broken), requests.from.0])?;
    numbers(out, &[damage.len() as u64])?;
    for Damage { place, problem } in damage {
        text(out, place)?;
        text(out, problem)?;
    }
    numbers(out, &[graph.kinds.0.len() as u64])?;
    for (behavior, schema) in &graph.kinds.0 {
        text(out, behavior)?;
        numbers(out, &[u64::from(*schema)])?;
    }
    numbers(out, &[graph.objects])?;
    let mut result = Ok(());
    graph.between(0, u64::MAX, |object, seen| {
        result = numbers(out, &[object.0]).and_then(|()| write_seen(out, seen));
        result.is_ok()
    });
    result?;
    numbers(out, &[graph.names.len() as u64])?;
    for (digest, seen) in &graph.names {
        out.write_all(&digest.to_le_bytes())?;
        write_seen(out, seen)?;
    }
    numbers(out, &[graph.spines.nodes.len() as u64, u64::from(graph.spines.free)])?;
    for (tid, rest) in &graph.spines.nodes {
        numbers(out, &[tid.0, u64::from(*rest)])?;
    }
    numbers(out, &[requests.list.len() as u64])?;
    requests.list.iter().try_for_each(|it| numbers(out, &[it.tid.0, it.id, it.row]))
}

/// None if it is of another identity.
fn read_walk(input: &mut impl Read, identity: IdentityId) -> io::Result<Option<Walk>> {
    if array::<16>(input)? != MAGIC || array::<16>(input)? != identity.0 {
        return Ok(None);
    }
    let mut walk = Walk::default();
    walk.head.hash = RecordHash(array(input)?);
    let (base_hash, digest) = (RecordHash(array(input)?), BaseDigest(array(input)?));
    let base_tid = Tid(number(input)?);
    walk.base = base_tid.exists().map(|tid| BaseMark { head: Head { tid, hash: base_hash }, digest });
    walk.head = Head { tid: Tid(number(input)?), ..walk.head };
    (walk.batches, walk.transactions, walk.bytes) = (number(input)?, number(input)?, number(input)?);
    walk.broken = number(input)? != 0;
    walk.requests.from = Tid(number(input)?);
    for _ in 0..number(input)? {
        walk.damage.push(Damage { place: read_text(input)?, problem: read_text(input)? });
    }
    let graph = &mut walk.graph;
    for _ in 0..number(input)? {
        graph.kinds.0.push((Arc::from(read_text(input)?), number(input)? as u32));
    }
    graph.objects = number(input)?;
    for _ in 0..graph.objects {
        let object = ObjectId(number(input)?);
        *slot(&mut graph.pages, object) = read_seen(input)?;
    }
    let names = number(input)?;
    graph.names = FxHashMap::default();
    for _ in 0..names {
        let digest = u128::from_le_bytes(array(input)?);
        graph.names.insert(digest, read_seen(input)?);
    }
    let nodes = number(input)?;
    graph.spines.free = number(input)? as u32;
    for _ in 0..nodes {
        graph.spines.nodes.push((Tid(number(input)?), number(input)? as u32));
    }
    for _ in 0..number(input)? {
        walk.requests.list.push(Request { tid: Tid(number(input)?), id: number(input)?, row: number(input)? });
    }
    Ok(Some(walk))
}

fn write_seen(out: &mut impl Write, seen: &Seen) -> io::Result<()> {
    numbers(out, &[seen.tid.0, seen.number, seen.digest, u64::from(seen.spine) << 32 | u64::from(seen.kind)])
}

fn read_seen(input: &mut impl Read) -> io::Result<Seen> {
    let (tid, number_, digest, last) = (Tid(number(input)?), number(input)?, number(input)?, number(input)?);
    Ok(Seen { tid, number: number_, digest, spine: (last >> 32) as u32, kind: last as u32 })
}

fn numbers(out: &mut impl Write, numbers: &[u64]) -> io::Result<()> {
    numbers.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
}

fn text(out: &mut impl Write, text: &str) -> io::Result<()> {
    numbers(out, &[text.len() as u64])?;
    out.write_all(text.as_bytes())
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(input: &mut impl Read) -> io::Result<u64> {
    array(input).map(u64::from_le_bytes)
}

fn read_text(input: &mut impl Read) -> io::Result<String> {
    let mut bytes = vec![0; number(input)? as usize];
    input.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}
