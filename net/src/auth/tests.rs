use super::*;

fn access(keys: &str, header: &str) -> Option<Access> {
    Keys::parse(keys).expect(keys).identify(Some(header.as_bytes()), None).ok()
}

fn scopes_of(access: &Access) -> String {
    let all = [('r', Scopes::READ), ('w', Scopes::WRITE), ('d', Scopes::DELETE), ('a', Scopes::ADMIN)];
    all.iter().filter(|(_, scope)| access.has(*scope)).map(|(letter, _)| *letter).collect()
}

#[test]
fn entries_give_scopes_and_prefixes() {
    let table = [
        // rule, keys, secret, scopes, names permitted, names not permitted
        ("A-2", "s", "s", "rwda", &["", "x"][..], &[][..]),
        ("A-2", " ,, s ,", "s", "rwda", &["x"], &[]),
        ("A-5", "s:read", "s", "r", &["x"], &[]),
        ("A-5", "s:R+Write", "s", "rw", &["x"], &[]),
        ("A-5", "s:rw", "s", "rw", &["x"], &[]),
        ("A-5", "s:d+a", "s", "da", &["x"], &[]),
        ("A-5", "s:DEL", "s", "d", &["x"], &[]),
        ("A-5", "s:delete+admin+", "s", "da", &["x"], &[]),
        ("A-10", "s:r:a.|b:", "s", "r", &["a.", "a.x", "b:", "b:c"], &["a", "b", "", "A.x", "xa."]),
        ("A-10", "s::a", "s", "rwda", &["a", "ab"], &["b", ""]),
        ("A-10", "s::a:b:c|", "s", "rwda", &["a:b:cd"], &["a:b"]),
        ("A-10", "s:w:|", "s", "w", &["x"], &[]),
        ("A-10", "s::", "s", "rwda", &["x"], &[]),
        ("A-4", "s:r,t:w,s:d:x", "s", "d", &["x"], &["a"]),
        ("A-4", "s:r,t:w,s:d:x", "t", "w", &["a"], &[]),
        ("A-2", "é /+=:r", "é /+=", "r", &["x"], &[]),
    ];
    for (rule, keys, secret, scopes, permitted, others) in table {
        let access = access(keys, &format!("Bearer {secret}")).expect(keys);
        assert_eq!(scopes_of(&access), scopes, "{rule}: {keys}");
        for name in permitted {
            assert!(access.permits(name.as_bytes()), "{rule}: {keys} {name:?}");
        }
        for name in others {
            assert!(!access.permits(name.as_bytes()), "{rule}: {keys} {name:?}");
        }
    }
}

#[test]
fn malformed_entries_are_refused_without_showing_them() {
    for (keys, part) in [
        ("hush:x", "entry 1 of the API keys has an unknown scope"),
        ("a,hush:r+rx", "entry 2"),
        ("hush: r", "unknown scope"),
        ("hush:+", "names no scope"),
        ("hush:++:p", "names no scope"),
        ("hush:", "names no scope"),
        (":r", "empty secret"),
        (" :r", "empty secret"),
        ("::p", "empty secret"),
    ] {
        let error = Keys::parse(keys).expect_err(keys).to_string();
        assert!(error.contains(part), "A-5 {keys}: {error}");
        assert!(!error.contains("hush"), "A-3 {keys}: {error}");
    }
    let many: Vec<String> = (0..=API_KEYS_MAX).map(|index| format!("s{index}")).collect();
    assert!(Keys::parse(&many.join(",")).is_err());
    assert_eq!(Keys::parse(&many[1..].join(",")).map(|keys| keys.count()), Ok(API_KEYS_MAX));
}

#[test]
fn a_bearer_is_spelled_exactly() {
    for (header, known) in [
        ("Bearer s", true),
        ("Bearer  s", true),
        ("Bearer \ts\t ", true),
        ("bearer s", false),
        ("BEARER s", false),
        ("Bearer", false),
        ("Bearer ", false),
        ("Bearers", false),
        ("Bearer\ts", false),
        ("Bearer S", false),
        ("Bearer s s", false),
        ("Bearer s:r", false),
        ("Basic s", false),
        ("s", false),
        ("", false),
    ] {
        assert_eq!(access("s:r", header).is_some(), known, "A-2 {header:?}");
    }
    let keys = Keys::parse("s").expect("a key");
    let fault = keys.identify(None, None).expect_err("A-2: no header");
    assert_eq!(fault.status(), 401);
}

#[test]
fn a_token_counts_only_without_a_bearer() {
    let keys = Keys::parse("s:r,t:w").expect("keys");
    for (header, token, scopes) in [
        (None, Some("s"), Some("r")),
        (Some("Bearer t"), Some("s"), Some("w")),
        (Some("Bearer x"), Some("s"), None),
        (Some("Bearer "), Some("s"), None),
        (Some("Bearer"), Some("s"), None),
        (Some("Basic x"), Some("s"), Some("r")),
        (None, Some("x"), None),
        (None, Some(""), None),
        (None, Some(" s"), None),
    ] {
        let found = keys.identify(header.map(str::as_bytes), token.map(str::as_bytes));
        let found = found.ok().map(|access| scopes_of(&access));
        assert_eq!(found.as_deref(), scopes, "A-14 {header:?} {token:?}");
    }
}

#[test]
fn without_keys_everyone_may_do_everything() {
    for text in ["", " ", ",", " , ,"] {
        let keys = Keys::parse(text).expect(text);
        assert!(!keys.is_on(), "A-1 {text:?}");
        let access = keys.identify(Some(b"Bearer nobody"), Some(b"x")).expect("A-1");
        assert!(access.has(Scopes::ALL) && access.permits(b"x") && access.key().is_none(), "A-1");
    }
}

#[test]
fn access_is_refused_with_what_is_missing() {
    let access = access("s:r+d:a", "Bearer s").expect("known");
    for (rule, scopes, part) in [
        ("A-6", Scopes::READ, None),
        ("A-6", Scopes::NONE, None),
        ("A-6", Scopes::READ_WRITE, Some("write")),
        ("A-6", Scopes::ADMIN, Some("admin")),
    ] {
        let fault = access.needs(scopes).err();
        assert_eq!(fault.as_ref().map(|fault| fault.status()), part.map(|_| 403), "{rule}");
        assert!(fault.is_none_or(|fault| fault.message().contains(part.unwrap_or_default())), "{rule}");
    }
    assert!(access.needs_topic("ab").is_ok(), "A-10");
    assert_eq!(access.needs_topic("b"), Err(Fault::forbidden_topic("b")), "A-10");
}

#[test]
fn a_list_walks_the_permitted_ranges() {
    for (keys, prefix, ranges) in [
        ("s", "", &[""][..]),
        ("s", "a", &["a"]),
        ("s::b|a", "", &["a", "b"]),
        ("s::b|a", "a", &["a"]),
        ("s::b|a", "ax", &["ax"]),
        ("s::b|a", "c", &[]),
        ("s::ab|a|abc|b", "", &["a", "b"]),
        ("s::ab|ac|a.", "a", &["a.", "ab", "ac"]),
        ("s::ab|abc", "abcd", &["abcd"]),
    ] {
        let access = access(keys, "Bearer s").expect(keys);
        let found = access.ranges(prefix.as_bytes());
        assert_eq!(
            found,
            ranges.iter().map(|range| range.as_bytes()).collect::<Vec<_>>(),
            "TL-4 {keys} {prefix}"
        );
    }
}

#[test]
fn a_configuration_is_denied_without_admin_or_outside_the_prefixes() {
    for (keys, dead_letter, named) in [
        ("s:w", None, Some("t")),
        ("s:w", Some("x"), Some("t")),
        ("s:a", Some("x"), None),
        ("s::t", Some("x"), Some("x")),
        ("s::t", Some("t2"), None),
        ("s::t", None, None),
    ] {
        let access = access(keys, "Bearer s").expect(keys);
        let denied = access.denies_config("t", dead_letter);
        assert_eq!(denied.as_deref(), named.map(Fault::forbidden_topic).as_ref(), "W-10 A-10(f) {keys}");
    }
}

#[test]
fn nobody_may_do_nothing() {
    let nobody = Access::NOTHING;
    assert!(nobody.needs(Scopes::READ).is_err() && !nobody.permits(b"x"), "A-11");
    assert!(nobody.ranges(b"").is_empty() && nobody.key().is_none(), "A-11");
}

#[test]
fn nothing_prints_a_secret_or_its_digest() {
    let keys = Keys::parse("hush:r,other").expect("keys");
    let access = keys.identify(Some(b"Bearer other"), None).expect("known");
    assert_eq!(format!("{keys:?} {access:?}"), "2 keys key 1", "A-3");
}
