//! Whether pages come and go as they should.

use super::*;

const VALUES: Db = Db(0);

/// How much of an environment's file is in this process's memory, in kB.
fn resident_kb(env: &Env) -> u64 {
    let (start, length) = env.0.mapping.expect("the file is mapped");
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let from = smaps.find(&format!("{start:x}-{:x} ", start + length)).expect("the mapping is listed");
    let resident = smaps[from..].lines().find_map(|line| line.strip_prefix("Rss:")).expect("it has a size");
    resident.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn pages_that_were_let_go_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::open(&options(folder.path(), false)).unwrap();
    (0..100_u8).for_each(|number| put(&env, &[number], &[number; 50_000]));
    let read_all = || {
        let txn = env.read().unwrap();
        (0..100_u8).all(|number| txn.get(VALUES, &[number]).unwrap() == Some(&[number; 50_000][..]))
    };
    assert!(read_all());
    let before = resident_kb(&env);
    assert!(before > 4_000, "{before} kB");
    env.let_go_of_pages();
    let after = resident_kb(&env);
    assert!(after < before / 10, "{before} kB before, {after} kB after");
    assert!(read_all(), "the file has it still");
}

/// How the environment in a folder is opened.
fn options(path: &Path, read_only: bool) -> EnvOptions<'_> {
    EnvOptions { path, map_bytes: 64 << 20, databases: &["values"], create: !read_only, read_only, random_reads: false }
}

/// What whoever only reads is shown: the entries, and how much of the map is in use.
fn shown(folder: &Path) -> Result<(Vec<OwnedEntry>, u64), StorageError> {
    let env = Env::open(&options(folder, true))?;
    let mut entries = Vec::new();
    env.read()?.walk(VALUES, &[], |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        Ok::<_, StorageError>(true)
    })?;
    Ok((entries, env.usage()?.used_bytes))
}

fn put(env: &Env, key: &[u8], value: &[u8]) {
    let mut txn = env.write().unwrap();
    txn.put(VALUES, key, value).unwrap();
    txn.commit().unwrap();
}

fn remove(env: &Env, numbers: std::ops::Range<u8>) {
    let mut txn = env.write().unwrap();
    numbers.for_each(|number| txn.delete(VALUES, &[number]).unwrap());
    txn.commit().unwrap();
}

/// Takes pages and gives them back in one transaction, so many that the last ones of the file are free and were never written.
/// Answers how many bytes the file lacks.
fn leave_pages_unwritten(env: &Env) -> u64 {
    let lacks_after = |entries: u32| {
        let mut txn = env.write().unwrap();
        let key = |number: u32| [b"z", &number.to_be_bytes()[..]].concat();
        (0..entries).for_each(|number| txn.append(VALUES, &key(number), &[7; 1000]).unwrap());
        (0..entries).rev().for_each(|number| txn.delete(VALUES, &key(number)).unwrap());
        txn.commit().unwrap();
        let (info, page) = (env.0.environment.info().unwrap(), env.0.environment.stat().unwrap().page_size());
        let needed = (info.last_pgno() as u64 + 1) * u64::from(page);
        needed.saturating_sub(fs::metadata(env.path().join("data.mdb")).unwrap().len())
    };
    // Somewhat more than what is free: a long list of free pages would take, and write, pages at the end.
    (1..100).map(|hundreds| lacks_after(hundreds * 100)).find(|lacks| *lacks > 0).expect("the file has every page")
}

#[test]
fn a_file_may_lack_pages_that_are_free_and_no_others() {
    // Lists of free pages in one page, in many records under a branch page, and in one record that is longer than a page.
    let fill: [fn(&Env); 3] =
        [|_| {}, |env| (10..50).for_each(|number| remove(env, number..number + 1)), |env| remove(env, 10..100)];
    for (number, fill) in fill.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.mdb");
        let env = Env::open(&options(folder.path(), false)).unwrap();
        (0..130_u8).for_each(|number| put(&env, &[number], &[number; 50_000]));
        // These pages are used again; what is freed from now on stays in the lists.
        remove(&env, 100..130);
        put(&env, &[0], b"changed");
        let view = env.read().unwrap();
        fill(&env);
        let lacks = leave_pages_unwritten(&env);
        drop(view);
        drop(env);
        let expected = shown(folder.path()).unwrap();
        let whole = fs::read(&file).unwrap();
        let (mut taken, mut refused) = (0, 0);
        let near = (0..7).map(|step| whole.len() - 1 - step * 2048);
        for length in near.chain((1..4).map(|part| whole.len() * part / 4)) {
            fs::write(&file, &whole[..length]).unwrap();
            match shown(folder.path()) {
                Ok(found) => {
                    assert!(found == expected, "case {number} with {length} bytes");
                    taken += 1;
                }
                Err(StorageError::Damaged { .. }) => refused += 1,
                Err(error) => panic!("case {number} with {length} bytes: {error}"),
            }
        }
        assert!(refused > 0, "case {number}: {taken} were taken, {refused} refused");
        // Whoever writes goes on with it, and then nothing is missing.
        fs::write(&file, &whole).unwrap();
        drop(Env::open(&options(folder.path(), false)).unwrap());
        assert!(shown(folder.path()).unwrap() == expected);
        assert!(fs::metadata(&file).unwrap().len() >= whole.len() as u64 + lacks);
    }
}
