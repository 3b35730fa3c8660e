//! URLs of clients and peers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use super::ConfigError;

/// A `scheme://host:port`. Its text is kept as it was given, since member ids are made of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    port: u16,
}

/// How a URL is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// A Unix socket, with TLS or without.
    Unix,
}

/// For embedders who fill in a [`Config`](super::Config) themselves.
impl FromStr for Url {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text).map_err(ConfigError::usage)
    }
}

impl Url {
    /// Reads a URL; surrounding spaces are dropped.
    ///
    /// # Errors
    /// A sentence on what is wrong with it, for a person to read.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("{text:?} is no URL, which looks like http://127.0.0.1:2379"))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" | "unixs" => Scheme::Unix,
            _ => {
                return Err(format!("the URL {text} must begin with http:// or https://"));
            }
        };
        if scheme == Scheme::Unix {
            // A path or a name; there is no port to take off.
            return Ok(Self { text: text.to_owned(), scheme, host: rest.to_owned(), port: 0 });
        }
        if rest.contains(['/', '?', '#', '@']) {
            return Err(format!("the URL {text} must end after its port"));
        }
        let no_port = || format!("the URL {text} needs a port, as in http://127.0.0.1:2379");
        let (host, port) = rest.rsplit_once(':').ok_or_else(no_port)?;
        // All but digits are refused, since parse would take a sign.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or_else(no_port)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(host)) => host,
            None if !host.contains([':', ']']) => host,
            _ => {
                return Err(format!("the address in {text} needs brackets, as in http://[::1]:2379"));
            }
        };
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',') {
            return Err(format!("the host in {text:?} is not a name"));
        }
        Ok(Self { text: text.to_owned(), scheme, host: host.to_owned(), port })
    }

    /// The text it was given as.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How it is reached.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host to dial: a name or an address.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port to dial.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address to listen on, `localhost` being 127.0.0.1; `None` when the host is another name.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        let ip = match self.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        Some(SocketAddr::new(ip, self.port))
    }

    /// Whether both reach the same place, `localhost` and 127.0.0.1 being one.
    pub(crate) fn reaches_same(&self, other: &Self) -> bool {
        self == other
            || (self.scheme == other.scheme
                && self.socket_addr().is_some()
                && self.socket_addr() == other.socket_addr())
    }
}

impl AsRef<str> for Url {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads `name=URL` pairs separated by commas; a name may come several times. Each member's URLs are
/// sorted.
pub(super) fn parse_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').ok_or_else(|| format!("{pair:?} should be name=URL"))?;
        members.entry(name.trim().to_owned()).or_default().push(Url::parse(url)?);
    }
    for urls in members.values_mut() {
        urls.sort();
    }
    Ok(members)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for (text, addr) in [
            ("http://localhost:2379", Some("127.0.0.1:2379")),
            ("http://0.0.0.0:1", Some("0.0.0.0:1")),
            ("http://[::1]:2379", Some("[::1]:2379")),
            (" http://127.0.0.1:0 ", Some("127.0.0.1:0")),
            ("http://example.com:80", None),
            ("http://:2379", None),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.socket_addr().map(|a| a.to_string()).as_deref(), addr, "{text:?}");
            assert_eq!(url.as_str(), text.trim());
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "",
            "localhost:2379",
            "ftp://localhost:21",
            "http://127.0.0.1",
            "http://127.0.0.1:",
            "http://127.0.0.1:+80",
            "http://127.0.0.1:65536",
            "http://127.0.0.1:2379/",
            "http://127.0.0.1:2379/path",
            "http://user@127.0.0.1:2379",
            "http://::1:2379",
            "http://[::1:2379",
            "http://a b:2379",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn one_member_may_have_several_urls() {
        let cluster = parse_cluster("b=http://h:2,a=http://h:1,b=http://h:1").unwrap();
        assert_eq!(cluster["a"].len(), 1);
        let b: Vec<&str> = cluster["b"].iter().map(Url::as_str).collect();
        assert_eq!(b, ["http://h:1", "http://h:2"]);
        assert!(parse_cluster("http://h:1").is_err());
    }
}
