use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    super::super::{BatchHeader, Incarnation, batch::BatchBuilder},
    *,
};

/// A folder with an empty file, and the records that are written into it.
struct Written {
    folder: TempDir,
    head: Head,
}

impl Written {
    fn new() -> Written {
        let folder = tempfile::tempdir().unwrap();
        Wal::create(folder.path()).unwrap();
        Written { folder, head: Head::default() }
    }

    /// Opens it as a host does whose database ends with `head`.
    fn writer(&self, head: Head) -> Wal {
        let mut wal = self.reader();
        wal.begin_writing(head).unwrap();
        wal
    }

    fn reader(&self) -> Wal {
        Wal::open(self.folder.path(), FILE_BYTES, false).unwrap()
    }

    /// The record that comes next: one transaction, which is so long.
    fn next(&self, bytes: usize, fill: u8) -> Arc<StoredRecord> {
        record(self.head, bytes, fill)
    }

    fn append(&mut self, wal: &Wal, bytes: usize) -> bool {
        let record = self.next(bytes, 7);
        let done = wal.append(&record).unwrap();
        self.head = record.head();
        done
    }

    /// The transactions of the records that a reader finds behind `head`.
    fn found(&self, head: Head) -> Result<Vec<u64>, StorageError> {
        let wal = self.reader();
        let tail = wal.following(wal.read()?, head)?;
        Ok(tail.iter().map(|record| record.last().0).collect())
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.folder.path().join(FILE)).unwrap()
    }

    fn put(&self, bytes: &[u8]) {
        fs::write(self.folder.path().join(FILE), bytes).unwrap();
    }
}

fn record(after: Head, bytes: usize, fill: u8) -> Arc<StoredRecord> {
    let mut batch = BatchBuilder::default();
    batch.push_encoded(&vec![fill; bytes]);
    let first = after.tid.next();
    let header = BatchHeader {
        first,
        last: first,
        time_us: 1,
        incarnation: Incarnation(1),
        generations: Arc::new([]),
        previous: after.hash,
    };
    Arc::new(StoredRecord::new(&header, &batch))
}

#[test]
fn what_was_appended_is_found_until_the_database_has_it() {
    let mut written = Written::new();
    let wal = written.writer(Head::default());
    assert!([1, 400, 20_000].iter().all(|bytes| written.append(&wal, *bytes)));
    assert_eq!(written.found(Head::default()).unwrap(), [1, 2, 3]);
    drop(wal);
    // The next host goes on behind them.
    let wal = written.writer(Head::default());
    assert!(written.append(&wal, 3));
    assert_eq!(written.found(Head::default()).unwrap(), [1, 2, 3, 4]);
    // The database gets them; what is written next lies over the first, and what is left of the others is of no account.
    let moved = written.head;
    wal.clear();
    assert!(wal.tail().unwrap().is_empty());
    assert_eq!(written.found(moved).unwrap(), [0; 0]);
    assert!(written.append(&wal, 400));
    assert_eq!(written.found(moved).unwrap(), [5]);
    assert_eq!(written.writer(moved).tail().unwrap().len(), 1);
}

#[test]
fn what_is_too_long_or_has_no_room_is_for_the_database() {
    let mut written = Written::new();
    let wal = written.writer(Head::default());
    let before = written.head;
    assert!(!written.append(&wal, VALUE_BYTES_MAX));
    written.head = before;
    let mut count = 0;
    while written.append(&wal, 100_000) {
        count += 1;
    }
    assert_eq!(count, FILE_BYTES / pages(sectors_of(100_200) * SECTOR));
    written.head = Head::default();
    assert_eq!(written.found(Head::default()).unwrap().len() as u64, count);
    wal.bypass(true);
    wal.clear();
    assert!(!written.append(&wal, 1));
}

#[test]
fn a_log_that_does_not_follow_the_database_is_damage() {
    let mut written = Written::new();
    let wal = written.writer(Head::default());
    let first = record(Head::default(), 5, 1);
    written.head = first.head();
    let moved = written.head;
    assert!(written.append(&wal, 5) && written.append(&wal, 5));
    assert_eq!(written.found(moved).unwrap(), [2, 3]);
    // A database that has lost its end, and one with another.
    for other in [Head::default(), Head { tid: moved.tid, hash: record(Head::default(), 6, 1).hash() }] {
        let error = written.found(other).unwrap_err().to_string();
        assert!(error.contains("goes on with 2"), "{error}");
    }
}

#[test]
fn a_file_that_is_not_there_or_too_short_is_damage() {
    let written = Written::new();
    let path = written.folder.path().join(FILE);
    let open = || Wal::open(written.folder.path(), FILE_BYTES, true).map(drop).unwrap_err().to_string();
    written.put(&written.bytes()[..FILE_BYTES as usize - 1]);
    assert!(open().contains("1048575 bytes, 1048576 belong there"), "{}", open());
    fs::remove_file(path).unwrap();
    assert!(open().contains("it is missing"), "{}", open());
}

#[test]
fn every_bit_of_what_is_needed_is_guarded() {
    let mut written = Written::new();
    let wal = written.writer(Head::default());
    for bytes in [3, 700, 5_000] {
        written.append(&wal, bytes);
    }
    let whole = written.bytes();
    let records = [3, 700, 5_000].map(|bytes| sectors_of(record(Head::default(), bytes, 0).value().len()));
    let mut start = 0;
    for sectors in records {
        for byte in (start..start + sectors * SECTOR).step_by(5) {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1 << (byte % 8);
            written.put(&bytes);
            let found = written.reader().read_once();
            assert!(matches!(found, Err(StorageError::Damaged { .. })), "byte {byte}: {:?}", found.map(|it| it.len()));
        }
        start += pages(sectors * SECTOR) as usize;
    }
}

/// A sector that a crash left of the attempt before, with the same transaction in it, is no damage.
#[test]
fn two_attempts_at_a_record_are_not_mixed_up() {
    let mut written = Written::new();
    let wal = written.writer(Head::default());
    let attempts = [1, 2].map(|fill| {
        let mut sectors = Vec::new();
        cut(&written.next(2_000, fill), 0, &mut sectors);
        sectors
    });
    drop(wal);
    let mut bytes = written.bytes();
    for mixture in 0..1 << (attempts[0].len() / SECTOR) {
        for (sector, place) in bytes.chunks_mut(SECTOR).zip(0..attempts[0].len() / SECTOR) {
            sector.copy_from_slice(&attempts[mixture >> place & 1][place * SECTOR..][..SECTOR]);
        }
        written.put(&bytes);
        let whole = mixture == 0 || mixture == (1 << (attempts[0].len() / SECTOR)) - 1;
        assert_eq!(written.found(Head::default()).unwrap().len(), usize::from(whole), "{mixture:b}");
    }
    written.put(&vec![0; FILE_BYTES as usize]);
    let wal = written.writer(Head::default());
    assert!(written.append(&wal, 2_000));
}

#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    Move,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![1..600_usize, 600..60_000_usize].prop_map(Step::Append),
        1 => Just(Step::Move),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a loss of power leaves of the write that was under way, sector by sector: what was answered is found, and nothing else but
    /// that write if it is there wholly.
    #[test]
    fn a_torn_write_takes_nothing_with_it(
        steps in proptest::collection::vec(step(), 1..40),
        last in 1..30_000_usize,
        kept in proptest::collection::vec(any::<bool>(), 80),
    ) {
        let mut written = Written::new();
        let mut wal = written.writer(Head::default());
        let mut moved = Head::default();
        let mut expected: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Append(bytes) => {
                    if written.append(&wal, bytes) {
                        expected.push(written.head.tid.0);
                    } else {
                        wal.clear();
                        (moved, expected) = (written.head, Vec::new());
                    }
                }
                Step::Move => {
                    wal.clear();
                    (moved, expected) = (written.head, Vec::new());
                }
                Step::Reopen => {
                    drop(wal);
                    wal = written.writer(moved);
                    let tail: Vec<u64> = wal.tail().unwrap().iter().map(|record| record.last().0).collect();
                    prop_assert_eq!(&tail, &expected);
                }
            }
        }
        let before = written.bytes();
        if written.append(&wal, last) {
            let (after, mut bytes) = (written.bytes(), before.clone());
            let changed: Vec<usize> = (0..after.len() / SECTOR)
                .filter(|sector| before[sector * SECTOR..][..SECTOR] != after[sector * SECTOR..][..SECTOR])
                .collect();
            let mut whole = true;
            for (sector, kept) in changed.iter().zip(kept.iter().chain(std::iter::repeat(&true))) {
                whole &= kept;
                if *kept {
                    bytes[sector * SECTOR..][..SECTOR].copy_from_slice(&after[sector * SECTOR..][..SECTOR]);
                }
            }
            written.put(&bytes);
            if whole {
                expected.push(written.head.tid.0);
            }
            prop_assert_eq!(written.found(moved).unwrap(), expected);
        }
    }
}
