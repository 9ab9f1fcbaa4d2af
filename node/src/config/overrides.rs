//! What the command line says in place of the file: the flags of SPIRE's `run` and `validate`.

use toml::{Table, Value};

/// Value of a variable of the environment, by its name.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Values of flags; each takes the place of the key named with it, and is checked like it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `trust_domain`.
    pub trust_domain: Option<String>,
    /// `data_dir`.
    pub data_dir: Option<String>,
    /// `log_level`, in any case.
    pub log_level: Option<String>,
    /// `log_format`, in any case.
    pub log_format: Option<String>,
    /// `log_file`.
    pub log_file: Option<String>,
    /// `log_source_location`, where it is to be on; off is the file's to say.
    pub log_source_location: bool,
    /// `api.admin_socket`.
    pub admin_socket: Option<String>,
    /// The IP address in `api.address`.
    pub bind_address: Option<String>,
    /// The port in `api.address`.
    pub server_port: Option<u16>,
}

impl Overrides {
    /// Puts the values into `table`, before it is checked.
    pub(super) fn apply(&self, table: &mut Table) {
        let lower = |text: &String| text.to_lowercase();
        for (key, value) in [
            ("trust_domain", self.trust_domain.clone()),
            ("data_dir", self.data_dir.clone()),
            ("log_level", self.log_level.as_ref().map(lower)),
            ("log_format", self.log_format.as_ref().map(lower)),
            ("log_file", self.log_file.clone()),
        ] {
            if let Some(value) = value {
                table.insert(key.to_owned(), Value::String(value));
            }
        }
        if self.log_source_location {
            table.insert("log_source_location".to_owned(), Value::Boolean(true));
        }
        if self.admin_socket.is_none() && self.bind_address.is_none() && self.server_port.is_none()
        {
            return;
        }
        let api = table
            .entry("api")
            .or_insert_with(|| Value::Table(Table::new()));
        // What stands there and is no section is reported as such.
        let Some(api) = api.as_table_mut() else {
            return;
        };
        if let Some(socket) = &self.admin_socket {
            api.insert("admin_socket".to_owned(), Value::String(socket.clone()));
        }
        if self.bind_address.is_some() || self.server_port.is_some() {
            let address = self.address(api.get("address").and_then(Value::as_str));
            api.insert("address".to_owned(), Value::String(address));
        }
    }

    /// `api.address`, of which the file may hold the other half.
    fn address(&self, of_file: Option<&str>) -> String {
        let (ip, port) = of_file
            .and_then(|text| text.rsplit_once(':'))
            .unwrap_or(("0.0.0.0", "8081"));
        let ip = match &self.bind_address {
            Some(ip) if ip.contains(':') && !ip.starts_with('[') => format!("[{ip}]"),
            Some(ip) => ip.clone(),
            None => ip.to_owned(),
        };
        match self.server_port {
            Some(port) => format!("{ip}:{port}"),
            None => format!("{ip}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn file(text: &str) -> String {
        format!("trust_domain = \"example.org\"\ndata_dir = \"/var/lib/chancery\"\n{text}")
    }

    fn address(file_text: &str, overrides: &Overrides) -> String {
        let config = Config::parse_with(&file(file_text), "x.toml", overrides).unwrap();
        config.api.address.to_string()
    }

    #[test]
    fn flags_take_the_place_of_keys() {
        let overrides = Overrides {
            trust_domain: Some("other.org".into()),
            data_dir: Some("/srv".into()),
            log_level: Some("DEBUG".into()),
            log_format: Some("JSON".into()),
            log_file: Some("/var/log/Chancery.log".into()),
            log_source_location: true,
            admin_socket: Some("/run/x.sock".into()),
            bind_address: Some("127.0.0.1".into()),
            server_port: Some(9_443),
        };
        let config = Config::parse_with(&file(""), "x.toml", &overrides).unwrap();
        let written = "trust_domain = \"other.org\"\ndata_dir = \"/srv\"\nlog_level = \"debug\"\n\
                       log_format = \"json\"\nlog_file = \"/var/log/Chancery.log\"\n\
                       log_source_location = true\n[api]\naddress = \"127.0.0.1:9443\"\n\
                       admin_socket = \"/run/x.sock\"\n";
        assert_eq!(config, Config::parse(written, "x.toml").unwrap());
    }

    #[test]
    fn a_switch_that_is_off_leaves_the_file_s_word() {
        let parse = |text: &str| {
            let overrides = Overrides::default();
            Config::parse_with(&file(text), "x.toml", &overrides).unwrap()
        };
        let api = "[api]\naddress = \"127.0.0.1:1\"\n";
        assert!(parse(&format!("log_source_location = true\n{api}")).log_source_location);
        assert!(!parse(api).log_source_location);
    }

    #[test]
    fn half_an_address_leaves_the_other_half() {
        let written = "[api]\naddress = \"127.0.0.1:9000\"\n";
        let port = Overrides {
            server_port: Some(1_234),
            ..Overrides::default()
        };
        let ip = |ip: &str| Overrides {
            bind_address: Some(ip.into()),
            ..Overrides::default()
        };
        assert_eq!(address(written, &port), "127.0.0.1:1234");
        assert_eq!(address(written, &ip("127.0.0.2")), "127.0.0.2:9000");
        assert_eq!(address("", &ip("127.0.0.2")), "127.0.0.2:8081");
        assert_eq!(address(written, &ip("::1")), "[::1]:9000");
        assert_eq!(
            address("[api]\naddress = \"[::1]:9000\"\n", &port),
            "[::1]:1234"
        );
    }

    #[test]
    fn a_flag_is_checked_as_its_key_is() {
        let overrides = Overrides {
            log_level: Some("loud".into()),
            bind_address: Some("localhost".into()),
            ..Overrides::default()
        };
        let errors = Config::parse_with(&file(""), "x.toml", &overrides).unwrap_err();
        let paths: Vec<_> = errors.problems.iter().map(|p| p.path.as_str()).collect();
        for path in ["api.address", "log_level"] {
            assert!(paths.contains(&path), "{paths:?}");
        }
        let errors = Config::parse_with("api = 1\n", "x.toml", &overrides).unwrap_err();
        assert!(errors.problems.iter().any(|p| p.path == "api"));
    }
}
