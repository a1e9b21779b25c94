//! A small file system of its own, in a file: filled up, made read-only, and cut off as a power failure
//! cuts it off. Needs root and loop devices; elsewhere these tests say that they were skipped.

use std::fs::{self, File};
use std::io::{ErrorKind, Write, stderr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::kill::identity;
use crate::random::body_of;
use crate::server::{Dir, Server, assert_whole, serve, verify};

const MIB: u64 = 1 << 20;
/// A refusal, or an answer, may take this long on a full disk.
const LONGEST: Duration = Duration::from_secs(10);

/// An ext4 of its own, mounted at `home/mount`.
struct Mount {
    image: PathBuf,
    at: PathBuf,
}

impl Mount {
    fn new(home: &Dir, bytes: u64) -> Option<Mount> {
        let mount = Mount { image: home.join("image"), at: home.join("mount") };
        let file = File::create(&mount.image).expect("a file");
        file.set_len(bytes).expect("a length");
        fs::create_dir_all(&mount.at).expect("a directory");
        let made = run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&mount.image));
        match made.and_then(|()| mount.mount()) {
            Ok(()) => Some(mount),
            Err(why) => {
                // Past the capture of a test's output: nobody should believe that this was tested.
                let told = writeln!(
                    stderr(),
                    "SKIPPED, NOT TESTED: no file system of our own here (it takes root, loop devices and \
                     mkfs.ext4): {why}"
                );
                told.expect("stderr");
                None
            }
        }
    }

    /// A server with its data here; its log and port file are elsewhere.
    fn start(&self, home: &Dir) -> Server {
        self.start_sealing(home, "200")
    }

    /// The same, with records sealed at that age.
    fn start_sealing(&self, home: &Dir, age_ms: &str) -> Server {
        let data = self.data();
        Server::start(home.path(), &[("RUNELOG_DATA_DIR", &data), ("RUNELOG_SEGMENT_MAX_AGE_MS", age_ms)])
    }

    fn data(&self) -> String {
        self.at.join("data").display().to_string()
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.at))
    }

    fn unmount(&self) {
        self.soon(Command::new("umount").arg(&self.at));
    }

    /// The kernel takes a moment to let go of the files in the rings of a process that has ended.
    fn soon(&self, command: &mut Command) {
        let began = Instant::now();
        while let Err(why) = run(command) {
            assert!(began.elapsed() < LONGEST, "{why}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As if the power had failed: nothing more reaches the image, not even the journal. Then the
    /// machine starts again.
    fn power_failure(&self, server: Server) {
        self.stop_writes();
        server.kill();
        self.unmount();
        self.mount().expect("mounted again");
        assert_whole(Path::new(&self.data()));
    }

    /// From now on every write to it fails.
    fn stop_writes(&self) {
        const EXT4_IOC_SHUTDOWN: u64 = 0x8004_587d;
        const NOLOGFLUSH: u32 = 2;
        let root = File::open(&self.at).expect("the mount");
        let how = NOLOGFLUSH;
        // SAFETY: the ioctl reads one u32 and keeps nothing.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &raw const how) };
        assert_eq!(result, 0, "EXT4_IOC_SHUTDOWN: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: on a failure the server may still be there.
        let _ = run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn path(topic: &str) -> String {
    format!("/v0/topics/{topic}")
}

fn create(client: &mut Client, class: &str) {
    let config = format!("{{\"durability\":\"{class}\"}}");
    client.call("PUT", &path(class), &config).expect("an answer").good();
}

/// Longer than the disk takes to fill up.
const AGE_LATER: Duration = Duration::from_secs(5);

/// A topic of three records that are over by age soon.
fn create_aging(client: &mut Client, topic: &str, ttl_ms: u128) {
    let config = format!("{{\"durability\":\"fsync\",\"ttl_ms\":{ttl_ms}}}");
    client.call("PUT", &path(topic), &config).expect("an answer").good();
    client.call("POST", &path(topic), &body_of(1, 3, None)).expect("an answer").good();
}

/// Its records are over, and nobody waits for a log that could say so (PR-5, CF-10).
fn assert_over(client: &mut Client, topic: &str) {
    let asked = Instant::now();
    let view = client.view(topic).expect("an answer").expect("its creation was acknowledged");
    assert_eq!((view.records.len(), view.count, view.earliest), (0, 0, 4), "{topic}");
    assert!(asked.elapsed() < LONGEST, "{topic}: an answer after {:?}", asked.elapsed());
}

/// What a topic acknowledged: first seq, write, records.
type Ledger = Vec<(u64, u64, u64)>;

fn append(client: &mut Client, class: &str, write: u64, ledger: &mut Ledger) -> u16 {
    let count = 1 + write % 7;
    let asked = Instant::now();
    let reply = client.call("POST", &path(class), &body_of(write, count, None)).expect("an answer");
    assert!(asked.elapsed() < LONGEST, "{class}: an answer after {:?}: {reply}", asked.elapsed());
    let status = reply.status;
    match status {
        200 => ledger.push((reply.json()["first_seq"].as_u64().expect("a number"), write, count)),
        _ => println!("{class}: {reply}"),
    }
    status
}

/// How many of the writes of `ledger` are there, which must be a prefix of them, each as it was sent.
fn prefix(client: &mut Client, class: &str, ledger: &Ledger) -> usize {
    let view = client.view(class).expect("an answer").expect("its creation was acknowledged");
    let mut records = view.records.iter();
    for (at, (first, write, count)) in ledger.iter().enumerate() {
        for index in 0..*count {
            match records.next() {
                Some(got) => {
                    let found = (got.seq, identity(class, got));
                    assert_eq!(found, (first + index, (*write, index, *count)), "{class}: write {at}");
                }
                None => {
                    assert_eq!(index, 0, "{class}: a part of write {at} (I-55)");
                    return at;
                }
            }
        }
    }
    ledger.len()
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let home = Dir::new("full");
    let Some(mount) = Mount::new(&home, 96 * MIB) else { return };
    let server = mount.start(&home);
    let mut client = server.client();
    let mut ledgers = [("fsync", Ledger::new()), ("disk", Ledger::new())];
    for (class, ledger) in &mut ledgers {
        create(&mut client, class);
        for write in 0..50 {
            assert_eq!(append(&mut client, class, write, ledger), 200);
        }
    }
    create_aging(&mut client, "age-now", 200);
    create_aging(&mut client, "age-later", AGE_LATER.as_millis());
    let aging = Instant::now();
    fill(&mount.at.join("ballast"));
    // With the log files that are there it goes on for a while; then every write is refused.
    let mut refusals = 0;
    for write in 100..4000 {
        for (class, ledger) in &mut ledgers {
            let status = append(&mut client, class, write, ledger);
            assert!(matches!(status, 200 | 429 | 500), "{class}: {status} (PR-5)");
            refusals += u32::from(status != 200);
        }
        if refusals > 5 {
            break;
        }
    }
    assert!(refusals > 5, "the disk is full, and everything was taken");
    for (class, ledger) in &ledgers {
        assert_eq!(prefix(&mut client, class, ledger), ledger.len(), "reads go on");
    }
    assert_over(&mut client, "age-now");
    client.call("GET", "/v0/topics", "").expect("an answer").good();

    let (status, _) = server.stop();
    println!("the server ended with {status}");
    assert_whole(Path::new(&mount.data()));
    // A start needs no room either, and then even the first log file may find none.
    let server = mount.start(&home);
    let mut client = server.client();
    std::thread::sleep((AGE_LATER + Duration::from_millis(10)).saturating_sub(aging.elapsed()));
    for topic in ["age-now", "age-later"] {
        assert_over(&mut client, topic);
    }
    for (class, ledger) in &ledgers {
        assert_eq!(prefix(&mut client, class, ledger), ledger.len(), "reads go on after a start");
    }
    server.kill();
    fs::remove_file(mount.at.join("ballast")).expect("removed");
    let server = mount.start(&home);
    let mut client = server.client();
    for (class, ledger) in &mut ledgers {
        assert_eq!(prefix(&mut client, class, ledger), ledger.len(), "{class}: all acknowledged is there");
        assert_eq!(append(&mut client, class, 9000, ledger), 200, "there is room again");
    }
    server.stop_well();
}

/// The room comes back while the server runs.
#[test]
fn a_server_on_a_full_disk_goes_on_when_there_is_room_again() {
    let home = Dir::new("room");
    let Some(mount) = Mount::new(&home, 96 * MIB) else { return };
    let server = mount.start(&home);
    let mut client = server.client();
    create(&mut client, "fsync");
    fill(&mount.at.join("ballast"));
    let mut ledger = Ledger::new();
    let mut write = 0;
    while append(&mut client, "fsync", write, &mut ledger) == 200 {
        write += 1;
        assert!(write < 8000, "the disk is full, and everything was taken");
    }
    fs::remove_file(mount.at.join("ballast")).expect("removed");
    let since = Instant::now();
    while append(&mut client, "fsync", write, &mut ledger) != 200 {
        assert!(since.elapsed() < LONGEST, "there is room again, and it is not used: {}", server.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(prefix(&mut client, "fsync", &ledger), ledger.len());
    server.stop_well();
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut ballast = File::create(path).expect("a file");
    let mut bytes = vec![0x5a; MIB as usize];
    loop {
        match ballast.write(&bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull && bytes.len() > 4096 => {
                bytes.truncate(4096)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                break;
            }
        }
    }
    ballast.sync_all().expect("synced");
}

#[test]
fn after_a_power_failure_fsync_is_complete_and_disk_a_prefix() {
    let home = Dir::new("power");
    let Some(mount) = Mount::new(&home, 256 * MIB) else { return };
    let mut ledgers = [("fsync", Ledger::new()), ("disk", Ledger::new())];
    let mut write = 0;
    for round in 0..4 {
        let server = mount.start(&home);
        let mut client = server.client();
        for (class, ledger) in &mut ledgers {
            if round == 0 {
                create(&mut client, class);
            }
            // No seq of what the failure took is given to anything else (I-58).
            let kept = prefix(&mut client, class, ledger);
            println!("round {round}: {class} kept {kept} of {} writes", ledger.len());
            assert!(class == &"disk" || kept == ledger.len(), "fsync lost what it had acknowledged (I-51)");
            let highest = ledger.last().map_or(0, |(first, _, count)| first + count - 1);
            ledger.truncate(kept);
            write += 1;
            append(&mut client, class, write, ledger);
            let next = ledger.last().expect("just written").0;
            assert!(next > highest, "{class}: seq {next} was acknowledged before the failure (I-58)");
        }
        for _ in 0..300 {
            write += 1;
            for (class, ledger) in &mut ledgers {
                // More of class `disk`, so that a part of it is not synced when it happens.
                for _ in 0..if *class == "disk" { 3 } else { 1 } {
                    write += 1;
                    assert_eq!(append(&mut client, class, write, ledger), 200);
                }
            }
        }
        for _ in 0..20 {
            write += 1;
            assert_eq!(append(&mut client, "disk", write, &mut ledgers[1].1), 200);
        }
        mount.power_failure(server);
    }
}

/// The disk fails while the server runs: every write is an error from then on.
#[test]
fn a_log_that_cannot_be_written_publishes_nothing_and_goes_on_reading() {
    let home = Dir::new("failed");
    let Some(mount) = Mount::new(&home, 96 * MIB) else { return };
    // Nothing is sealed: such a file system does not even give back what is on it.
    let server = mount.start_sealing(&home, "0");
    let mut client = server.client();
    let queue = "{\"type\":\"queue\",\"durability\":\"fsync\",\"lease_ms\":3600000}";
    client.call("PUT", &path("queue"), queue).expect("an answer").good();
    client.call("POST", &path("queue"), &body_of(7, 3, None)).expect("an answer").good();
    let claim = "{\"node\":\"w\",\"max\":2}";
    let claimed = client.call("POST", &path("queue/claim"), claim).expect("an answer").good();
    assert_eq!(claimed["count"], 2, "{claimed}");
    let mut ledgers = [("fsync", Ledger::new()), ("disk", Ledger::new()), ("memory", Ledger::new())];
    for (class, ledger) in &mut ledgers {
        create(&mut client, class);
        for write in 0..20 {
            assert_eq!(append(&mut client, class, write, ledger), 200);
        }
    }
    mount.stop_writes();
    for (class, ledger) in &mut ledgers {
        // A write that was handed to the operating system may still be answered; no later one is.
        let before = client.view(class).expect("an answer").expect("it exists");
        let mut status = 200;
        for write in 100..200 {
            status = append(&mut client, class, write, ledger);
            if status != 200 {
                break;
            }
        }
        assert_eq!(status, 500, "{class} (W-36 I-44)");
        // I-44, I-45, W-36: nothing of it is seen, nothing more is taken, and reads go on.
        for write in 200..203 {
            assert_eq!(append(&mut client, class, write, ledger), 500, "{class} (I-45)");
        }
        assert_eq!(prefix(&mut client, class, ledger), ledger.len(), "{class} (W-36 I-44)");
        let after = client.view(class).expect("an answer").expect("it exists");
        let taken: u64 = ledger.iter().map(|(_, _, count)| count).sum();
        assert_eq!((after.count, after.earliest), (taken, before.earliest), "{class} (I-44)");
    }
    // the deletes could not be stored, so the jobs are ready again and nobody holds them.
    let ack = "{\"node\":\"w\",\"seqs\":[1,2]}";
    let reply = client.call("POST", &path("queue/ack"), ack).expect("an answer");
    assert_eq!(reply.status, 500, "{reply} (Q-42)");
    let state = client.call("GET", &path("queue"), "").expect("an answer").good();
    assert_eq!(
        (&state["queue"]["ready"], &state["queue"]["in_flight"]),
        (&3.into(), &0.into()),
        "Q-42: {state}"
    );
    assert_eq!(state["count"], 3, "Q-42");
    let metrics = client.call("GET", "/v0/metrics", "").expect("an answer");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("\ntopics_wal_read_only 1\n"), "I-45: {metrics}");
    let ready = client.call("GET", "/v0/ready", "").expect("an answer");
    assert!(ready.to_string().contains("\"wal_read_only\":true"), "I-45: {ready}");
    mount.power_failure(server);
    let server = mount.start(&home);
    let mut client = server.client();
    assert_eq!(prefix(&mut client, "fsync", &ledgers[0].1), ledgers[0].1.len(), "I-51");
    let jobs = client.view("queue").expect("an answer").expect("it exists");
    assert_eq!(jobs.count, 3, "I-87");
    server.stop_well();
}

#[test]
fn a_read_only_file_system_refuses_the_start() {
    let home = Dir::new("readonly");
    let Some(mount) = Mount::new(&home, 96 * MIB) else { return };
    mount.start(&home).stop_well();
    mount.soon(Command::new("mount").args(["-o", "remount,ro"]).arg(&mount.at));
    let data = mount.data();
    let refused = Server::refused(home.path(), &[("RUNELOG_DATA_DIR", &data)]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.log.contains("Read-only file system") && refused.log.contains(&data), "{}", refused.log);
    // To look nothing has to be written.
    assert_whole(Path::new(&data));
}

/// The owner of a file may be kept from changing it, root too.
fn immutable(path: &Path, on: bool) {
    run(Command::new("chattr").arg("-R").arg(if on { "+i" } else { "-i" }).arg(path)).expect("chattr");
}

#[test]
fn files_that_nobody_may_change_refuse_the_start() {
    let home = Dir::new("immutable");
    let Some(mount) = Mount::new(&home, 96 * MIB) else { return };
    let server = mount.start(&home);
    let mut client = server.client();
    let mut ledger = Ledger::new();
    create(&mut client, "fsync");
    for write in 0..20 {
        assert_eq!(append(&mut client, "fsync", write, &mut ledger), 200);
    }
    server.kill();
    let data = mount.data();
    for part in ["", "shards"] {
        let path = Path::new(&data).join(part);
        immutable(&path, true);
        match Server::run(home.path(), serve(home.path(), &[("RUNELOG_DATA_DIR", &data)])) {
            Err(refused) => {
                assert_eq!(refused.status.code(), Some(1), "{refused:?}");
                let words = ["Operation not permitted", &data];
                words.iter().for_each(|word| assert!(refused.log.contains(word), "{}", refused.log));
                assert_eq!(part, "", "{}", refused.log);
            }
            // Its files can be read and no log file can be made ready: it serves readers, and says so.
            Ok(server) => {
                assert_eq!(part, "shards", "{}", server.log());
                let mut client = server.client();
                assert_eq!(append(&mut client, "fsync", 900, &mut ledger), 429);
                assert_eq!(prefix(&mut client, "fsync", &ledger), ledger.len(), "reads go on");
                assert!(server.log().contains("Operation not permitted"), "{}", server.log());
                server.kill();
            }
        }
        assert_whole(Path::new(&data));
        immutable(&path, false);
    }
    let server = mount.start(&home);
    assert_eq!(prefix(&mut server.client(), "fsync", &ledger), ledger.len(), "all is there (I-51)");
    server.stop_well();
}

/// Bad sectors are what a disk answers with an error; a file system that a failure has stopped does too.
#[test]
fn a_disk_that_cannot_be_read_is_no_empty_one() {
    let home = Dir::new("unreadable");
    let Some(mount) = Mount::new(&home, 96 * MIB) else { return };
    let server = mount.start(&home);
    let mut client = server.client();
    create(&mut client, "fsync");
    let mut ledger = Ledger::new();
    assert_eq!(append(&mut client, "fsync", 1, &mut ledger), 200);
    server.kill();
    mount.stop_writes();
    let data = mount.data();
    let refused = Server::refused(home.path(), &[("RUNELOG_DATA_DIR", &data)]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.log.contains("Input/output error"), "{}", refused.log);
    let (status, text) = verify(Path::new(&data));
    assert_ne!(status, 0, "what cannot be read is not whole: {text}");
    mount.unmount();
    mount.mount().expect("mounted again");
    let server = mount.start(&home);
    assert_eq!(prefix(&mut server.client(), "fsync", &ledger), ledger.len(), "I-51");
    server.stop_well();
}
