//! A history as data: one [`Op`] a line. An op holds all its choices as small numbers that are read relative
//! to what is there ("the third router", "below the head by five"), so it still means something when the
//! ops before it are left out.

use std::fmt;
use std::str::FromStr;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident $word:literal { $($field:ident),* })+) => {
        /// One step of a history.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "what the fields mean stands at their variant")]
        pub enum Op { $($(#[$doc])* $name { $($field: u64),* }),+ }

        impl Op {
            /// Its numbers, to be made smaller.
            pub fn numbers(&mut self) -> Vec<&mut u64> {
                match self { $(Op::$name { $($field),* } => vec![$($field),*]),+ }
            }
        }

        impl fmt::Display for Op {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Op::$name { $($field),* } => {
                        f.write_str($word)?;
                        $(write!(f, " {}={}", stringify!($field), $field)?;)*
                        Ok(())
                    }),+
                }
            }
        }

        impl FromStr for Op {
            type Err = String;

            fn from_str(line: &str) -> Result<Op, String> {
                let mut words = line.split_whitespace();
                let word = words.next().ok_or("an empty line")?;
                let mut numbers = Vec::new();
                for pair in words {
                    let (name, number) = pair.split_once('=').ok_or(format!("{pair} in {line}"))?;
                    numbers.push((name, number.parse::<u64>().map_err(|error| format!("{pair}: {error}"))?));
                }
                let number = |name: &str| {
                    let found = numbers.iter().find(|(other, _)| *other == name);
                    found.map(|(_, number)| *number).ok_or(format!("{name} is missing in {line}"))
                };
                let _ = &number;
                match word {
                    $($word => Ok(Op::$name { $($field: number(stringify!($field))?),* }),)+
                    _ => Err(format!("no operation {word}")),
                }
            }
        }
    };
}

ops! {
    /// Appends `records` records of about `bytes`. `style`: 1 meta, 2 tags, 4 nodes, each on every third
    /// record. `key`: 0 none. A topic that is absent is made with settings number `config`.
    Append "append" { topic, records, bytes, style, key, config }
    /// Deletes: `back` seqs from the head are spared, 0 sets no bound; `tag`: 0 any, else one of the tags,
    /// odd as a prefix.
    Delete "delete" { topic, back, tag }
    /// Creates, or changes in place; settings number 0 asks for what is there.
    Put "put" { topic, config }
    /// Drops a topic and its routers.
    Drop "drop" { topic, if_empty }
    /// Reads `back` below the head (0: above it).
    Read "read" { topic, back, limit, bytes, skip }
    /// Compares everything with the model.
    Check "check" {}
    /// The wall clock goes on.
    Advance "advance" { ms }
    /// The wall clock steps back.
    Rewind "rewind" { ms }
    /// Some turns, some completions.
    Turn "turn" { count }
    /// Everything comes to rest.
    Settle "settle" {}
    /// Time passes until what is old is sealed.
    Seal "seal" {}
    /// A router; `style`: 1 keeps nodes, 2 keeps tags, 4 exactly once, 8 a filter.
    Route "route" { source, dest, style }
    /// Other options for a router that is there.
    Reroute "reroute" { router, style }
    /// A router ends.
    Unroute "unroute" { router }
    /// A router reads its source and sends what it found.
    Pump "pump" { router, records }
    /// Messages between shards arrive.
    Deliver "deliver" { count }
    /// Routers and messages, until everything that can be copied is.
    Flow "flow" {}
    /// Claims: `claimers` workers from `node` on, `max` jobs each. `holder`: 0 a claim, else a stream.
    Claim "claim" { topic, node, claimers, max, lease, holder }
    /// Acks up to `jobs` jobs from the `first` known one on; `fence`: 0 none, 1 the token, 2 another one.
    Ack "ack" { topic, node, first, jobs, fence }
    /// The same with a nack.
    Nack "nack" { topic, node, first, jobs, fence, delay }
    /// The same with a longer lease.
    Extend "extend" { topic, node, first, jobs, fence, lease }
    /// A stream of claims ends.
    Release "release" { topic, holder }
    /// A clean stop and a start with `shards` shards (0: as many as before), which is cut off `cuts` times.
    Stop "stop" { shards, cuts }
    /// A kill, and a start.
    Kill "kill" { shards, cuts }
    /// A power loss, and a start.
    PowerLoss "power-loss" { shards, cuts }
    /// The disk stops after `count` completions: a crash (`power`: 1 of the power) wherever that is.
    Cut "cut" { count, power }
    /// The n-th write from now on fails.
    FailWrite "fail-write" { nth }
    /// The n-th sync from now on fails.
    FailSync "fail-sync" { nth }
    /// The n-th read from now on fails.
    FailRead "fail-read" { nth }
    /// The n-th open, rename or removal from now on fails.
    FailName "fail-name" { nth }
    /// The disk has room for so many KiB more.
    Full "full" { kib }
    /// There is room again.
    Room "room" {}
    /// After a kill one bit of a stored file flips; the history ends with the start after it.
    Flip "flip" { file, byte, bit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let ops = [
            Op::Append { topic: 1, records: 2, bytes: 3, style: 4, key: 5, config: 6 },
            Op::Settle {},
            Op::PowerLoss { shards: 2, cuts: 1 },
        ];
        for op in ops {
            assert_eq!(op.to_string().parse(), Ok(op));
        }
        assert_eq!(ops[2].to_string(), "power-loss shards=2 cuts=1");
        assert!("append topic=1".parse::<Op>().is_err(), "numbers are missing");
        assert!("dance".parse::<Op>().is_err());
    }
}
