//! SU-1: whom the listener would let in.

use std::net::{SocketAddr, ToSocketAddrs};

use super::Refusal;

/// `host:port`; a host with a `:` already is one, and the port is ignored.
pub(crate) fn bind_text(host: &str, port: u64) -> String {
    if host.contains(':') { host.to_string() } else { format!("{host}:{port}") }
}

/// The addresses to bind, if they may be bound: `guarded` where a key is needed, or where none is and
/// that is wanted.
pub(crate) fn addresses(bind: &str, guarded: bool) -> Result<Vec<SocketAddr>, Refusal> {
    let resolved: Result<Vec<SocketAddr>, String> = match bind.to_socket_addrs() {
        Ok(found) => Some(found.collect::<Vec<_>>())
            .filter(|found| !found.is_empty())
            .ok_or_else(|| "it resolves to no address".to_string()),
        Err(error) => Err(error.to_string()),
    };
    // What cannot be resolved now may resolve to anything later, so it counts as not loopback.
    let loopback_only =
        resolved.as_ref().is_ok_and(|found| found.iter().all(|address| address.ip().is_loopback()));
    if !loopback_only && !guarded {
        let why = match &resolved {
            Ok(_) => "is not loopback only".to_string(),
            Err(error) => format!("cannot be resolved ({error}) and so counts as not loopback"),
        };
        return Err(Refusal(format!(
            "the address {bind} {why}, and without API keys everyone who reaches it may read, write and \
             delete everything; listen on 127.0.0.1, set api_keys (RUNELOG_API_KEYS), or set \
             allow_insecure_no_auth (RUNELOG_ALLOW_INSECURE_NO_AUTH=1) if that is what you want"
        )));
    }
    resolved.map_err(|error| Refusal(format!("cannot listen on {bind}: {error}")))
}

/// The first of the ports of `shards` cores, if they are to have any: all of them exist, and none is the port
/// of all cores.
pub(crate) fn shard_ports(
    first: u64,
    shards: usize,
    addresses: &[SocketAddr],
) -> Result<Option<u16>, Refusal> {
    if first == 0 {
        return Ok(None);
    }
    let last = first + shards as u64 - 1;
    let Some(row) = u16::try_from(first).ok().zip(u16::try_from(last).ok()) else {
        return Err(Refusal(format!(
            "shard_ports: {shards} cores from port {first} on end beyond port 65535; choose a lower one"
        )));
    };
    match addresses.iter().find(|address| (row.0..=row.1).contains(&address.port())) {
        Some(address) => Err(Refusal(format!(
            "shard_ports: ports {first} to {last} include {}, the port of all cores; choose others",
            address.port()
        ))),
        None => Ok(Some(row.0)),
    }
}
