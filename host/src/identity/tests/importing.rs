//! Reading beside an import.

use super::*;

#[test]
fn an_import_that_begins_beside_a_reader_is_seen_by_who_asks_for_the_head() {
    let subject = Subject::new();
    let (writer, _committer) = subject.open.unwrap();
    let identity = writer.identity().clone();
    let head = identity.head();
    let lasting = || identity.history.read().unwrap().lasting_head();
    assert_eq!(lasting().unwrap(), head);
    identity.begin_import().unwrap();
    assert!(matches!(lasting(), Err(StorageError::Unfinished { .. })));
    identity.end_import().unwrap();
    assert_eq!(lasting().unwrap(), head);
}
