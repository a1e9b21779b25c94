//! The few system calls that the standard library has no name for: signals, binding without listening,
//! scheduler slices, random numbers. All unsafe code of the server's start is here.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// A scheduler slice of 100 ms: on the core that takes the disk's interrupts, a saturated shard was seen
/// to fall from 4 400 to 250 commits a second without.
const SLICE_NS: u64 = 100_000_000;

fn stop_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set that the others then change.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        set.assume_init()
    }
}

/// This thread runs only where nothing else wants to.
pub(crate) fn yield_to_everybody() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters outlive the call; 0 means this thread. Refused, it runs like others.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &param) };
}

/// From now on this thread, and those it starts, leave SIGTERM and SIGINT to
/// [`wait_for_stop_signal`].
pub(crate) fn block_stop_signals() {
    let set = stop_signals();
    // SAFETY: `set` is initialised, the old mask is not wanted.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    assert_eq!(result, 0, "pthread_sigmask");
}

/// Waits for SIGTERM or SIGINT; returns its number.
pub(crate) fn wait_for_stop_signal() -> i32 {
    let set = stop_signals();
    loop {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call.
        if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
            return signal;
        }
    }
}

/// Binds a socket without listening: until then clients are refused rather than left waiting.
pub(crate) fn bind(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain system call.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // Connections inherit the others: a WebSocket is never sent anything of our own accord (WS-6), so only
    // the kernel finds out that its client is gone; after two minutes.
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_REUSEADDR, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 15),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4),
    ] {
        let value: libc::c_int = value;
        // SAFETY: the option's value is a valid int of the given size.
        let result = unsafe {
            let value = (&raw const value).cast();
            libc::setsockopt(fd, level, option, value, size_of::<libc::c_int>() as u32)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let result = match address {
        SocketAddr::V4(v4) => {
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `name` is a whole sockaddr_in, and its size is given.
            unsafe { libc::bind(fd, (&raw const name).cast(), size_of_val(&name) as u32) }
        }
        SocketAddr::V6(v6) => {
            let name = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { libc::bind(fd, (&raw const name).cast(), size_of_val(&name) as u32) }
        }
    };
    match result {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts listening; returns the address, with the port that the system chose.
pub(crate) fn listen(socket: &OwnedFd) -> io::Result<SocketAddr> {
    // SAFETY: plain system call on a descriptor we own.
    if unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) } != 0 {
        return Err(io::Error::last_os_error());
    }
    TcpListener::from(socket.try_clone()?).local_addr()
}

/// Asks the scheduler for long slices on this thread. Old kernels refuse; then nothing changes.
pub(crate) fn ask_for_long_slices() {
    /// `struct sched_attr` up to the fields that every kernel with the call knows.
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: 0,
        flags: 0,
        nice: 0,
        priority: 0,
        runtime: SLICE_NS,
        deadline: 0,
        period: 0,
    };
    // SAFETY: `attr` is a whole structure whose size it says itself; 0 means the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
}

/// A random number from the system.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.expect("/dev/urandom is always there");
    u64::from_ne_bytes(bytes)
}

/// Milliseconds since the Unix epoch.
pub(crate) fn wall_clock_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
