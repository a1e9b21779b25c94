//! The other bodies, and the commands of a WebSocket: read from a text and from other spellings of it.

use std::fmt::Debug;

use runelog_net::json::config::{ConfigRequest, parse_config};
use runelog_net::json::control::{parse_delete, parse_diff};
use runelog_net::json::queue::{parse_ack, parse_claim, parse_extend, parse_nack};
use runelog_net::json::router::parse_router;
use runelog_net::json::scan;
use runelog_net::json::watch::parse_watch;
use runelog_net::json::write::WriteScratch;
use runelog_net::json::ws::{Action, parse_command};

use crate::input::Input;
use crate::respell::Tree;

/// `which, body`.
pub(crate) fn control(input: &[u8]) {
    let mut input = Input::new(input);
    let which = input.byte();
    let body = input.rest();
    match which % 10 {
        0 => spelled(body, |body| parse_diff(body).ok()),
        1 => spelled(body, |body| parse_delete(body).ok()),
        2 => {
            config(body);
            spelled(body, |body| parse_config(body).ok());
        }
        3 => spelled(body, |body| {
            let router = parse_router(body).ok()?;
            let _ = router.check(router.source.as_bytes());
            Some(router)
        }),
        4 => spelled(body, |body| parse_watch(body, 1000).ok()),
        5 => spelled(body, |body| parse_claim(body).ok()),
        6 => spelled(body, |body| parse_ack(body).ok()),
        7 => spelled(body, |body| parse_nack(body).ok()),
        8 => spelled(body, |body| parse_extend(body).ok()),
        _ => spelled(body, command),
    }
}

/// Whatever `read` makes of a text it makes of another spelling; and what it takes is JSON.
fn spelled<T: Debug>(body: &[u8], read: impl Fn(&[u8]) -> Option<T>) {
    let own = read(body);
    let Ok(tree) = serde_json::from_slice::<Tree>(body) else {
        assert!(
            own.is_none() || body.is_empty() || crate::json::near_the_end_of_the_range(body),
            "J-1: {own:?}"
        );
        return;
    };
    assert!(scan::validate(body).is_ok() || own.is_none(), "J-1: {own:?}");
    for escaped in [false, true] {
        let spelling = tree.spell(escaped);
        let again = read(&spelling);
        assert_eq!(format!("{again:?}"), format!("{own:?}"), "J-3 to J-8: {}", spelling.escape_ascii());
    }
}

/// simd-json and serde_json agree on a configuration.
fn config(body: &[u8]) {
    let is_object = body.trim_ascii_start().first() == Some(&b'{');
    if !is_object || crate::json::near_the_end_of_the_range(body) {
        return;
    }
    let theirs = serde_json::from_slice::<ConfigRequest>(body).ok();
    let theirs = theirs.filter(|_| serde_json::from_slice::<serde_json::Value>(body).is_ok());
    assert_eq!(parse_config(body).ok(), theirs, "CF-1, J-5 to J-7");
}

/// What can be compared of a command: spans of a publish lie elsewhere in another spelling.
fn command(message: &[u8]) -> Option<String> {
    let mut scratch = WriteScratch::default();
    let command = parse_command(message, &mut scratch).ok()?;
    assert!(scan::validate(command.request_id).is_ok(), "WS-8: what is echoed is JSON");
    Some(match command.action {
        Action::Publish(publish) => {
            let records = scratch.records.iter().map(|record| {
                let text =
                    |span: runelog_engine::event::Span| span.of(message, &scratch.side).map(<[u8]>::to_vec);
                (text(record.tag), text(record.node))
            });
            format!(
                "{} {} {:?} {:?}",
                publish.topic,
                publish.return_seqs,
                publish.write.check_limits(None).is_ok(),
                records.collect::<Vec<_>>()
            )
        }
        action => format!("{action:?}"),
    })
}
