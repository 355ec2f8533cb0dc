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
    let options = EnvOptions {
        path: folder.path(),
        map_bytes: 64 << 20,
        databases: &["values"],
        create: true,
        read_only: false,
        random_reads: false,
    };
    let env = Env::open(&options).unwrap();
    for number in 0..100_u8 {
        let mut txn = env.write().unwrap();
        txn.append(VALUES, &[number], &[number; 50_000]).unwrap();
        txn.commit().unwrap();
    }
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
