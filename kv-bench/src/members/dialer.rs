//! Who dialed: which of some processes has the other end of a connection on this machine.
//!
//! The kernel knows, so no protocol has to say it, and no member needs to be told where to dial whom.

use std::fs::{read_dir, read_link, read_to_string};
use std::net::SocketAddr;

/// Of a row of `/proc/net/tcp`: its address, the other's, and the number of its socket.
const LOCAL: usize = 1;
const REMOTE: usize = 2;
const INODE: usize = 9;

/// The index of the process among `pids` which dialed from `theirs` to `ours`.
pub(super) fn dialer(theirs: SocketAddr, ours: SocketAddr, pids: &[Option<u32>]) -> Option<usize> {
    let inode = inode(&read_to_string("/proc/self/net/tcp").ok()?, theirs.port(), ours.port())?;
    pids.iter().position(|pid| pid.is_some_and(|pid| holds(pid, &inode)))
}

/// The socket of the end at port `local` of the connection to port `remote`. Both are on one machine: the ports are enough.
fn inode(table: &str, local: u16, remote: u16) -> Option<String> {
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    let mut rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.len() > INODE && row[LOCAL].ends_with(&local) && row[REMOTE].ends_with(&remote))?;
    Some(row[INODE].to_owned())
}

/// Whether the process has the socket open.
fn holds(pid: u32, inode: &str) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(files) = read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn whoever_dials_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _dialed = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, theirs) = listener.accept().unwrap();
        let ours = accepted.local_addr().unwrap();
        let this = std::process::id();
        assert_eq!(dialer(theirs, ours, &[None, Some(1), Some(this)]), Some(2));
        assert_eq!(dialer(theirs, ours, &[None, Some(u32::MAX)]), None);
    }

    #[test]
    fn a_row_is_found_by_both_ports() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: \
                     0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n   1: \
                     0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";
        assert_eq!(inode(table, 0xC350, 0x1F90).unwrap(), "4712");
        assert_eq!(inode(table, 0x1F90, 0xC350).unwrap(), "4711");
        assert_eq!(inode(table, 0x1F90, 0x1F90), None);
    }
}
