//! Member and cluster ids, as etcd computes them from the flags.
//!
//! All members of a new cluster compute the same ids without talking to each other, since each is
//! given the same `--initial-cluster` and `--initial-cluster-token`. They are etcd's own functions,
//! so that tools which know a member by its id keep knowing it.

use sha1::{Digest, Sha1};

/// The id of a member of a new cluster: the head of the SHA-1 of its peer URLs, sorted and joined
/// with nothing between them, and the cluster token.
///
/// The order in which the URLs are given does not matter; their exact text does: `localhost` and
/// `127.0.0.1` make different ids.
pub fn member_id<U: AsRef<str>>(peer_urls: &[U], cluster_token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url.as_bytes());
    }
    hash.update(cluster_token.as_bytes());
    head(hash)
}

/// The id of a cluster: the head of the SHA-1 of its members' ids, sorted, each as 8 bytes, big end
/// first.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    head(hash)
}

/// The first 8 bytes of a digest, big end first.
fn head(hash: Sha1) -> u64 {
    hash.finalize().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The expected values are what etcd 3.4.23 and 3.5.1 print for the same flags.

    #[test]
    fn bare_start() {
        let member = member_id(&["http://localhost:2380"], "etcd-cluster");
        assert_eq!(member, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster_id(&[member]), 0xcdf8_1819_4e3a_8c32);
    }

    #[test]
    fn two_peer_urls_in_any_order() {
        let urls = ["http://127.0.0.1:31381", "http://127.0.0.1:31380"];
        let member = member_id(&urls, "tok2");
        assert_eq!(member, 0x508d_9fb5_6d71_cd3f);
        assert_eq!(member_id(&[urls[1], urls[0]], "tok2"), member);
        assert_eq!(cluster_id(&[member]), 0x98a8_1589_b93b_5ce1);
    }

    #[test]
    fn three_members() {
        let [a, b, c] = ["http://127.0.0.1:31391", "http://127.0.0.1:31392", "http://127.0.0.1:31393"]
            .map(|url| member_id(&[url], "three"));
        assert_eq!([a, b, c], [0xf5e2_adf5_890d_c0b6, 0x1362_8e74_dac8_978c, 0xc9fe_91de_81a9_305e]);
        assert_eq!(cluster_id(&[a, b, c]), 0x4341_a50f_a2cf_1250);
        assert_eq!(cluster_id(&[c, a, b]), 0x4341_a50f_a2cf_1250);
    }
}
