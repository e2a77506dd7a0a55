//! The air-gap directory.

use super::{Bench, archives, gzip, write};

#[tokio::test]
async fn archives_of_a_directory_are_imported_once() {
    let (docker, oci) = archives();
    let mut bench = Bench::new();
    let dir = bench.dir.path().join("air");
    assert!(bench.store.import_directory(&dir).await.unwrap().imported.is_empty());
    std::fs::create_dir(&dir).unwrap();
    for (name, data) in [
        ("air/a.tar", docker.clone()),
        ("air/b.tgz", gzip(&oci)),
        ("air/broken.tar", b"x".repeat(600)),
        ("air/note.txt", docker),
    ] {
        write(&bench, name, &data);
    }
    let report = bench.store.import_directory(&dir).await.unwrap();
    let names = ["docker.io/library/busy:1", "docker.io/team/busy:2", "quay.io/team/busy:3"];
    assert_eq!((report.imported, report.kept), (names.map(str::to_owned).to_vec(), 0));
    assert_eq!(report.failed.len(), 1);
    assert!(report.failed[0].1.to_string().contains("not a tar archive"));
    // A restart; and the same contents in another file, under another name.
    bench.reopen();
    std::fs::copy(dir.join("a.tar"), dir.join("c.tar")).unwrap();
    std::fs::remove_file(dir.join("a.tar")).unwrap();
    let report = bench.store.import_directory(&dir).await.unwrap();
    assert_eq!((report.imported.len(), report.kept, report.failed.len()), (0, 2, 1));
    // What was removed by hand is imported again, and nothing else.
    bench.store.remove("quay.io/team/busy:3").await.unwrap();
    let report = bench.store.import_directory(&dir).await.unwrap();
    assert_eq!((report.imported, report.kept), (vec!["quay.io/team/busy:3".to_owned()], 1));
}
