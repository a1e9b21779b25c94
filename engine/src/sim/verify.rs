//! Looks at everything, and ends and starts in every way: after a start, what is there must be what a prefix
//! of each topic's history left, long enough for what was acknowledged (I-50…I-59).

use super::model::{Observed, Topic, ranges};
use super::rig::{Outcome, broken};
use super::world::{Step, Strength, World};
use super::{Stop, Violation};
use crate::checkpoint;
use crate::config::Class;
use crate::disk::sim::Crash;
use crate::ids::RouterId;
use crate::shard::recover::RecoverError;
use crate::shard::{TombstoneReason, parse_shard_dir};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Starts that may fail while faults are being lifted.
const STARTS_MAX: usize = 4;

impl World {
    /// Everything that is shown of a topic: as state and record by record.
    fn observe(&mut self, name: &str) -> Outcome<Observed> {
        let (first, records, gaps) = self.rig.read_all(name)?;
        let shown = self.rig.state(name)?;
        let bytes: u64 = records.iter().map(|seen| seen.counted_bytes).sum();
        let floor = shown.floors.iter().copied().max().expect("three");
        let earliest = records.first().map_or(shown.head + 1, |seen| seen.seq);
        let tombstone = first.tombstone.filter(|gap| gap.reason != TombstoneReason::SourceTrim);
        let wrong = if (shown.count, shown.bytes) != (records.len() as u64, bytes) {
            "I-8"
        } else if shown.earliest != earliest {
            "I-20"
        } else if floor >= shown.earliest || shown.earliest > shown.head + 1 {
            "I-21"
        } else if tombstone.map_or(0, |gap| gap.gap_to) != floor {
            "I-22"
        } else {
            ""
        };
        if !wrong.is_empty() {
            let what =
                format!("{name}: {shown:?}, {tombstone:?}, {} records of {bytes} bytes", records.len());
            return Err(broken(wrong, format!("{what} from {earliest} on")));
        }
        let mut once = BTreeSet::new();
        // Of its own routers: what others have copied may come along two ways.
        let metas = records.iter().filter_map(|seen| seen.rec.meta.as_ref());
        let own = format!("-{name}:");
        let is_own =
            |meta: &&Vec<u8>| meta.starts_with(b"{\"key\"") && String::from_utf8_lossy(meta).contains(&own);
        if let Some(key) = metas.filter(is_own).find(|key| !once.insert(*key)) {
            return Err(broken("I-67", format!("{name} holds {} twice", String::from_utf8_lossy(key))));
        }
        let found = self.rig.find(name);
        let links = self.rig.shards[self.rig.home(name)].links();
        let links = links.filter(|(_, link)| found.is_some_and(|found| link.dest == found.id));
        let links = links.map(|(router, link)| (router, (link.position, link.forwarded_total))).collect();
        let (jobs, outlived, vacant) = (self.rig.jobs(name), self.rig.outlived(name), self.rig.vacant(name));
        Ok(Observed { shown, tombstone, records, gaps, links, jobs, outlived, vacant })
    }

    /// Lets everything settle and compares every topic with the model.
    pub(super) fn check(&mut self) -> Outcome<()> {
        self.rig.settle()?;
        let now = self.rig.now;
        let names: Vec<String> = self.topics.keys().cloned().collect();
        for name in &names {
            self.expire(name);
            self.topics.get_mut(name).expect("a name of it").notice(now);
        }
        let halted: Vec<bool> = (0..self.rig.shards.len()).map(|shard| self.rig.is_halted(shard)).collect();
        let is_halted = |world: &World, name: &String| halted[world.rig.home(name)];
        let found: Vec<String> = self.rig.list()?.into_iter().filter(|name| !is_halted(self, name)).collect();
        let expected: Vec<String> = names.into_iter().filter(|name| !is_halted(self, name)).collect();
        if found != expected {
            return Err(broken("I-50", format!("topics {found:?} instead of {expected:?}")));
        }
        for name in &found {
            let observed = self.observe(name)?;
            let topic = &self.topics[name];
            if let Err((rule, why)) = topic.agrees(&observed, true) {
                let what = format!("{name}: {why}\n  model {}\n  shown {:?}", topic.brief(), observed.shown);
                return Err(broken(rule, what));
            }
        }
        if halted.contains(&true) {
            return self.check_halted();
        }
        if self.rig.quota_bytes > 0 {
            let bytes: u64 = self.topics.values().map(|topic| topic.bytes).sum();
            let gauge = (self.rig.quota.bytes(), self.rig.quota.topics());
            if gauge != (bytes, self.topics.len() as u64) {
                let what = format!("{bytes} bytes in {} topics", self.topics.len());
                return Err(broken("I-105", format!("the gauge says {gauge:?}: {what}")));
            }
        }
        self.report.checks += 1;
        Ok(())
    }

    /// After a failure of its log a shard shows what was committed, and nothing more (I-44).
    fn check_halted(&mut self) -> Outcome<()> {
        let committed = self.rig.committed();
        let names: Vec<String> = self.pasts.keys().cloned().collect();
        for name in names {
            let home = self.rig.home(&name);
            if !self.rig.is_halted(home) || self.rig.find(&name).is_none() {
                continue;
            }
            let past = &self.pasts[&name];
            let sure = past.steps.iter().take_while(|step| step.wait <= committed[home]).count();
            let state = if sure == 0 { &past.base } else { &past.steps[sure - 1].after };
            let (Some(state), settled) = (state.clone(), &past.steps[sure..]) else { continue };
            // Settings are in force at once; where they changed, more than one answer is right.
            let clear = |step: &Step| step.after.as_ref().is_some_and(|after| after.config == state.config);
            if state.heap_seen || state.config.ttl_ms > 0 || !settled.iter().all(clear) {
                continue;
            }
            let seen: Vec<u64> = self.rig.read_all(&name)?.1.iter().map(|seen| seen.seq).collect();
            let expected: Vec<u64> = state.live.keys().copied().collect();
            if seen != expected {
                let what = format!("{name} shows {} instead of {}", ranges(&seen), ranges(&expected));
                return Err(broken("I-44", format!("{what} after its log failed")));
            }
        }
        Ok(())
    }

    /// How many shards the next start has.
    fn shards(&mut self, wanted: u64) -> u16 {
        let now = self.rig.layout.map_or(self.setup.shards, |layout| layout.shards);
        match wanted {
            0 => now,
            _ => (1 + (wanted - 1) % 3) as u16,
        }
    }

    /// Ends the process as `kind` says, and starts again, with the start cut off `cuts` times.
    pub(super) fn crash_and_start(&mut self, kind: Crash, shards: u64, cuts: u64) -> Outcome<()> {
        let committed = self.rig.committed();
        let kind = self.end(kind);
        match kind {
            Crash::Kill => self.report.kills += 1,
            Crash::PowerLoss => self.report.power_losses += 1,
        }
        let shards = self.shards(shards);
        let needed = self.start(kind, shards, cuts)?;
        self.verify(needed, &committed)?;
        self.serve()
    }

    /// The process ends. After a failed sync the machine is started again as well (see TESTING.md): until then
    /// the system may show as stored what will never be.
    fn end(&mut self, kind: Crash) -> Crash {
        let failed = self.rig.disk.failed_syncs();
        let kind = if failed > self.failed_syncs { Crash::PowerLoss } else { kind };
        self.failed_syncs = failed;
        self.rig.crash(kind);
        kind
    }

    /// A clean stop and a start: everything is as it was (I-59).
    pub(super) fn stop_and_start(&mut self, shards: u64, cuts: u64) -> Outcome<()> {
        self.rig.disk.lift_faults();
        if self.halted() > 0 {
            return self.crash_and_start(Crash::Kill, shards, cuts);
        }
        self.rig.stop()?;
        // Until the process ends it may turn a few times more.
        (0..4).try_for_each(|_| self.rig.step(true))?;
        if self.halted() > 0 {
            return self.crash_and_start(Crash::Kill, shards, cuts);
        }
        let committed = self.rig.committed();
        let heads: Vec<(String, u64)> =
            self.topics.iter().map(|(name, topic)| (name.clone(), topic.head)).collect();
        self.end(Crash::PowerLoss);
        self.report.stops += 1;
        let shards = self.shards(shards);
        self.start(Crash::PowerLoss, shards, cuts)?;
        // All of it was acknowledged by the stop, whatever its class.
        for step in self.pasts.values_mut().flat_map(|past| &mut past.steps) {
            step.strength = Strength::PowerLoss;
            step.wait = 0;
        }
        self.verify(Crash::PowerLoss, &committed)?;
        for (name, head) in heads {
            let found = self.topics.get(&name).map(|topic| topic.head);
            // A start that was cut off was no clean one any more.
            if found != Some(head) && cuts == 0 {
                return Err(broken("I-59", format!("{name} stands at {found:?}, not at {head}")));
            }
        }
        self.serve()
    }

    /// Opens the directory. Returns what the data went through: a crash of a start counts as well.
    fn start(&mut self, kind: Crash, shards: u16, cuts: u64) -> Outcome<Crash> {
        let mut needed = kind;
        let before = self.rig.layout.map(|layout| layout.shards);
        for cut in 0..cuts.min(3) {
            let failed = self.rig.disk.failed();
            self.rig.disk.cut_after(2 + (cuts * 7 + cut * 13 + self.report.operations) % 60);
            match self.rig.open(shards) {
                Ok(()) => match self.rig.settle() {
                    Ok(()) | Err(Stop::Cut | Stop::Refused(_)) => {}
                    Err(stop) => return Err(stop),
                },
                Err(Stop::Cut) => self.report.cut_starts += 1,
                Err(stop) => self.may_fail(stop, failed)?,
            }
            needed = needed.max(self.end(kind));
        }
        for _ in 0..STARTS_MAX {
            let failed = self.rig.disk.failed();
            match self.rig.open(shards) {
                Ok(()) => {
                    self.report.starts += 1;
                    if before.is_some_and(|before| before != shards) {
                        self.report.reshards += 1;
                    }
                    return Ok(needed);
                }
                Err(Stop::Cut) => self.report.cut_starts += 1,
                Err(stop) => {
                    self.may_fail(stop, failed)?;
                    self.rig.disk.lift_faults();
                }
            }
            needed = needed.max(self.end(Crash::Kill));
        }
        Err(broken("I-90", "it does not start although nothing fails any more".to_owned()))
    }

    /// A start that fails must have a cause: a disk that was told to.
    fn may_fail(&mut self, stop: Stop, failed_before: u64) -> Outcome<()> {
        let has_failed = self.rig.disk.failed() > failed_before;
        match stop {
            Stop::Recover(RecoverError::Disk { .. }) if self.is_faulty => {
                self.report.failed_starts += 1;
                Ok(())
            }
            // What cannot be read is told as damage, naming the file.
            Stop::Recover(RecoverError::Damage(_) | RecoverError::DamagedBlock { .. }) if has_failed => {
                self.report.failed_starts += 1;
                Ok(())
            }
            Stop::Recover(error) => Err(broken("I-90", format!("it does not start: {error}"))),
            stop => Err(stop),
        }
    }

    /// Before clients come: routers are checked, and topics go of which the model cannot know how much of
    /// their window is vacant.
    fn serve(&mut self) -> Outcome<()> {
        let failed = self.rig.disk.failed();
        if self.rig.disk.is_sound() && failed == self.failed_before {
            self.is_faulty = false;
        }
        self.failed_before = failed;
        match self.prepare_service() {
            // A disk without room, or one that failed at once: somebody sees to it first.
            Err(Stop::Refused(_)) => {
                self.rig.disk.lift_faults();
                self.crash_and_start(Crash::Kill, 0, 0)
            }
            other => other,
        }
    }

    fn prepare_service(&mut self) -> Outcome<()> {
        self.check_links()?;
        let unclear = self.topics.iter().filter(|(_, topic)| topic.heap_seen);
        for name in unclear.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.drop_with_routers(&name, false)?;
        }
        Ok(())
    }

    /// After a start: what is there must be what a prefix of the history left, long enough for what was
    /// acknowledged up to the blocks `committed`. The model goes on from there.
    fn verify(&mut self, kind: Crash, committed: &[u64]) -> Outcome<()> {
        let needed = if kind == Crash::Kill { Strength::Kill } else { Strength::PowerLoss };
        let homes = committed.len() as u16;
        let mut shown = match self.observe_all() {
            // A read was told to fail, once: the next one shows what is there.
            Err(Stop::Refused(_)) if self.is_faulty && !self.is_over => {
                self.rig.disk.lift_faults();
                self.observe_all()?
            }
            other => other?,
        };
        let names: BTreeSet<String> = self.pasts.keys().chain(shown.keys()).cloned().collect();
        let pasts = std::mem::take(&mut self.pasts);
        let mut after = BTreeMap::new();
        for name in names {
            let observed = shown.remove(&name);
            let past = pasts.get(&name);
            let home = crate::shard::owner_of(name.as_bytes(), self.rig.fresh.directory, homes.max(1));
            let committed = committed.get(usize::from(home)).copied().unwrap_or(0);
            if let Some(state) = self.verify_topic(&name, past, needed, committed, observed)? {
                after.insert(name, state);
            }
        }
        self.topics = after;
        for (name, topic) in &self.topics {
            let base = Some(Rc::new(topic.clone()));
            self.pasts.insert(name.clone(), super::world::Past { base, steps: Vec::new() });
        }
        self.mesh.clear();
        self.verify_registry(committed)
    }

    /// All topics, with everything that they show.
    fn observe_all(&mut self) -> Outcome<BTreeMap<String, Observed>> {
        let names = self.rig.list()?;
        names.into_iter().map(|name| Ok((name.clone(), self.observe(&name)?))).collect()
    }

    fn verify_topic(
        &mut self,
        name: &str,
        past: Option<&super::world::Past>,
        needed: Strength,
        committed: u64,
        observed: Option<Observed>,
    ) -> Outcome<Option<Topic>> {
        let now = self.rig.now;
        let steps = past.map_or(&[][..], |past| &past.steps);
        let surely = |step: &Step| step.strength >= needed && step.wait <= committed;
        let least = steps.iter().rposition(surely).map_or(0, |at| at + 1);
        let base = past.and_then(|past| past.base.clone());
        let state_at = |at: usize| if at == 0 { base.clone() } else { steps[at - 1].after.clone() };
        let (mut why, mut rule) = (String::new(), "I-51");
        let mut alike: Option<Topic> = None;
        for at in (least..=steps.len()).rev() {
            let verdict = match (state_at(at), &observed) {
                (None, None) => return Ok(None),
                (Some(state), Some(observed)) => {
                    let mut state = state.restarted();
                    let later = steps[at..].iter().filter_map(|step| step.after.as_ref());
                    let same = later.filter(|later| later.instance == state.instance);
                    if self.is_over || self.is_faulty {
                        // Places that moved without copies may stand in the newest checkpoint only,
                        // which this start or one before it may have passed over.
                        state.links.values_mut().for_each(|link| link.logged = None);
                    }
                    state.reach = same.map(|later| later.head).max().unwrap_or(0);
                    state.expire(now);
                    state.notice(now);
                    match state.agrees(observed, false) {
                        Ok(()) if state.held_as_many(observed) => {
                            return self.go_on(name, steps, committed, state, observed).map(Some);
                        }
                        Ok(()) => {
                            alike.get_or_insert(state);
                            continue;
                        }
                        Err(verdict) => verdict,
                    }
                }
                (None, Some(_)) => ("I-50", "it is there".to_owned()),
                (Some(_), None) => ("I-50", "it is not there".to_owned()),
            };
            if at == steps.len() || at == least {
                rule = verdict.0;
            }
            let what = if at == 0 { "the start" } else { &steps[at - 1].what };
            if steps.len() - at < 12 {
                why.push_str(&format!("\n  after {at} ({what}): {}", verdict.1));
            }
        }
        if let (Some(state), Some(observed)) = (alike, &observed) {
            return self.go_on(name, steps, committed, state, observed).map(Some);
        }
        let shown = observed.as_ref().map(|observed| &observed.shown);
        for (at, step) in steps.iter().enumerate().skip((least.max(8)) - 8).take(24) {
            let live = step.after.as_ref().map(|topic| (topic.config.class, topic.brief()));
            why.push_str(&format!("\n  step {}: {} in block {}, {live:?}", at + 1, step.what, step.wait));
        }
        let what = format!("{name}, committed {committed}, step {least} of {} was sure:{why}", steps.len());
        Err(broken(rule, format!("{what}\n  shown {shown:?}")))
    }

    /// The state that was found, with what the start decided.
    fn go_on(
        &mut self,
        name: &str,
        steps: &[Step],
        committed: u64,
        mut state: Topic,
        observed: &Observed,
    ) -> Outcome<Topic> {
        let head = observed.shown.head;
        // I-58: whatever was acknowledged keeps its seq to itself. A flipped bit can look like a torn tail,
        // which takes the reservation along.
        let least = if self.is_over { Strength::PowerLoss } else { Strength::Kill };
        for step in steps.iter().filter(|step| step.strength >= least && step.wait <= committed) {
            let then = step.after.as_ref().filter(|then| then.instance == state.instance);
            if let Some(then) = then.filter(|then| head < then.logged_head) {
                return Err(broken(
                    "I-58",
                    format!("{name} stands at {head}, given away {}", then.logged_head),
                ));
            }
        }
        if head > state.head {
            state.vacant.push((state.head + 1, head));
        }
        (state.head, state.logged_head) = (head, head);
        for (router, link) in &mut state.links {
            let Some((position, total)) = observed.links.get(router) else { continue };
            *link =
                super::model::Link { position: *position, total: *total, logged: Some((*position, *total)) };
        }
        for (router, (position, total)) in &observed.links {
            // Its end was not durable: the router is not in the registry, and the link goes with it.
            let link =
                super::model::Link { position: *position, total: *total, logged: Some((*position, *total)) };
            state.links.entry(*router).or_insert(link);
        }
        state.links.retain(|router, _| observed.links.contains_key(router));
        if state.heap_seen {
            state.trims.clone_from(&observed.gaps); // as much of them as a log or checkpoint knew
        }
        state.adopt_jobs(&observed.jobs);
        for (seq, node, token, _) in &observed.outlived {
            if state.live.contains_key(seq) || !self.tokens.contains(token) {
                let node = String::from_utf8_lossy(node);
                return Err(broken("I-82", format!("{name}: {token:?} of {node} for {seq} outlived no job")));
            }
        }
        state.adopt_outlived(&observed.outlived);
        state.is_large |= state.config.class == Class::Ephemeral;
        Ok(state)
    }

    /// I-50: the routers in force are those of the last acknowledged change, or of a later one.
    fn verify_registry(&mut self, committed: &[u64]) -> Outcome<()> {
        for (home, shard) in self.rig.shards.iter().enumerate().skip(1) {
            if shard.routers().next().is_some() {
                return Err(broken("I-50", format!("shard {home} has a registry of its own")));
            }
        }
        let found: BTreeMap<RouterId, _> =
            self.rig.shards[0].routers().map(|def| (def.id, def.clone())).collect();
        let steps = std::mem::take(&mut self.routers.steps);
        let least = steps.iter().rposition(|(wait, _)| *wait <= committed.first().copied().unwrap_or(0));
        let mut states = vec![&self.routers.base];
        states.extend(steps.iter().map(|(_, after)| after));
        let fits = states[least.map_or(0, |at| at + 1)..].iter().any(|state| **state == found);
        if !fits {
            return Err(Stop::Broken(Violation {
                rule: "I-50".to_owned(),
                message: format!("routers {found:?} instead of {:?}", states.last()),
            }));
        }
        self.routers.base.clone_from(&found);
        self.routers.now = found;
        Ok(())
    }

    /// One bit of a stored file flips after a kill: the next start names the place, or reads say that something
    /// is unreadable, or a second copy covers it; nothing is wrong or missing without a word (I-94, I-98).
    pub(super) fn flip(&mut self, file: u64, byte: u64, bit: u64) -> Outcome<()> {
        self.rig.settle()?;
        self.rig.disk.lift_faults();
        if self.halted() > 0 {
            return Ok(());
        }
        let committed = self.rig.committed();
        let told: Vec<u64> = self.rig.shards.iter().map(|shard| shard.log.synced_told()).collect();
        self.rig.crash(Crash::Kill);
        self.is_over = true;
        let files: Vec<(String, u64)> =
            self.rig.disk.files().into_iter().filter(|(_, bytes)| *bytes > 0).collect();
        // Each kind of file as often as another, and in it what was written: most of a log file never was.
        let kinds = ["/wal-", "segments/", "/ckpt-", ""].map(|part| {
            let of_kind = files.iter().map(|(path, _)| path).filter(move |path| path.contains(part));
            of_kind.collect::<Vec<_>>()
        });
        let kinds: Vec<_> = kinds.iter().filter(|kind| !kind.is_empty()).collect();
        let kind = kinds[file as usize % kinds.len()];
        let path = kind[file as usize / kinds.len() % kind.len()];
        let stored = self.rig.disk.contents(path).unwrap_or(&[]);
        let written = stored.iter().rposition(|byte| *byte != 0).map_or(stored.len(), |at| at + 1);
        let byte = byte % written as u64;
        let is_passed_over = is_newest_checkpoint(path, &files);
        self.rig.disk.flip_bit(path, byte, (bit % 8) as u8);
        self.report.flips += 1;
        let shards = self.shards(0);
        match self.rig.open(shards) {
            Err(Stop::Recover(error)) => {
                let text = error.to_string();
                self.report.flips_refused += 1;
                if is_passed_over {
                    return Err(broken("I-95", format!("{path} is not passed over: {text}")));
                }
                let named = text.contains('/') || text.contains("layout");
                return if named {
                    Ok(())
                } else {
                    Err(broken("I-94", format!("{path}: no place in: {text}")))
                };
            }
            other => other?,
        }
        // A tail that no sync covered may be cut at the flip: what a power loss may take.
        match self.verify(Crash::PowerLoss, &committed) {
            Err(Stop::Refused(crate::error::EngineError::Unreadable(_))) => {
                self.report.flips_unreadable += 1;
                Ok(())
            }
            Err(Stop::Broken(_)) if self.is_cut_at_the_end(path, &told) => {
                self.report.flips_torn += 1;
                Ok(())
            }
            Err(Stop::Broken(Violation { rule, message })) => {
                Err(broken(&rule, format!("after a flip of byte {byte} of {path}: {message}")))
            }
            other => other,
        }
    }

    /// Whether the last start cut that log behind all of which the log itself says that it was synced, and told
    /// so: a block cannot be told from one that was being written, even if it was synced, while no later one
    /// says so (I-93).
    fn is_cut_at_the_end(&self, path: &str, told: &[u64]) -> bool {
        let dir = path.split('/').nth(1).and_then(parse_shard_dir);
        let cut = dir.and_then(|(_, shard)| {
            let shard = usize::from(shard);
            self.rig.cuts.get(shard)?.zip(told.get(shard).copied())
        });
        cut.is_some_and(|(before, told)| before > told)
    }
}

/// Whether a start can do without the file: it is the newest checkpoint of its shard, and was not the first.
fn is_newest_checkpoint(path: &str, files: &[(String, u64)]) -> bool {
    let number_of = |path: &str| {
        let (dir, name) = path.rsplit_once('/')?;
        match checkpoint::parse_name(name) {
            checkpoint::Name::Checkpoint(number) => Some((dir.to_owned(), number)),
            _ => None,
        }
    };
    let Some((dir, number)) = number_of(path) else { return false };
    let newer =
        |(other, _): &(String, u64)| number_of(other).is_some_and(|(its, n)| its == dir && n > number);
    number > 1 && !files.iter().any(newer)
}
