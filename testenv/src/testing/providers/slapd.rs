//! A real LDAP directory: slapd, with a folder of its own.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use super::program::{CA, CERTIFICATE, KEY, Program, find};
use crate::ports;

/// The account that may search, and its password.
pub const SEARCHER: (&str, &str) = ("cn=underpass,dc=example,dc=org", "search-secret");

/// The directory's entries. Passwords are the name and `-secret`.
///
/// alice is in `dev` and `posix`, `dev` in `platform`, `platform` in `everyone`, and `everyone` in `platform` again. bob
/// is in no group. `twin-1` and `twin-2` have the same mail address. zoe's name needs escaping, in her own distinguished
/// name and in her group's. carol is in `dev`, in a group that another directory has, in one that no directory here has, and in
/// one that is not there.
const ENTRIES: &str = r"dn: dc=example,dc=org
objectClass: domain
dc: example

dn: cn=underpass,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: underpass
userPassword: search-secret

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups

dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: alice@example.org
departmentNumber: blue
userPassword: alice-secret
memberOf: cn=dev,ou=groups,dc=example,dc=org

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: B
userPassword: bob-secret

dn: uid=carol,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: carol
uid: c
cn: Carol
sn: C
userPassword: carol-secret
memberOf: cn=elsewhere,ou=groups,dc=example,dc=org
memberOf: cn=far,dc=example,dc=net
memberOf: cn=gone,ou=groups,dc=example,dc=org
memberOf: cn=dev,ou=groups,dc=example,dc=org

dn: cn=Zoe (ops)\, \2A,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: zoe
cn: Zoe (ops), *
sn: Z
userPassword: zoe-secret
memberOf: cn=on call (\2A)\, all,ou=groups,dc=example,dc=org

dn: uid=twin-1,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: twin-1
cn: Twin
sn: T
mail: twin@example.org
userPassword: twin-secret

dn: uid=twin-2,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: twin-2
cn: Twin
sn: T
mail: twin@example.org
userPassword: twin-secret

dn: cn=dev,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: dev
member: uid=alice,ou=people,dc=example,dc=org
memberOf: cn=platform,ou=groups,dc=example,dc=org

dn: cn=platform,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: platform
member: cn=dev,ou=groups,dc=example,dc=org
member: cn=everyone,ou=groups,dc=example,dc=org
memberOf: cn=everyone,ou=groups,dc=example,dc=org

dn: cn=everyone,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: everyone
member: cn=platform,ou=groups,dc=example,dc=org
memberOf: cn=platform,ou=groups,dc=example,dc=org

dn: cn=on call (\2A)\, all,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: on call (*), all
member: cn=Zoe (ops)\, \2A,ou=people,dc=example,dc=org

dn: cn=elsewhere,ou=groups,dc=example,dc=org
objectClass: referral
objectClass: extensibleObject
cn: elsewhere
ref: ldap://other.example.org/cn=elsewhere,ou=groups,dc=example,dc=org

dn: cn=posix,ou=groups,dc=example,dc=org
objectClass: posixGroup
cn: posix
gidNumber: 1000
memberUid: alice
";

/// A running directory.
#[derive(Debug)]
pub struct Directory {
    program: Program,
    ports: [u16; 2],
}

impl Directory {
    /// Starts one.
    pub async fn start() -> Self {
        Self::with_flood(0).await
    }

    /// Starts one in which bob is in so many groups.
    pub async fn with_flood(groups: usize) -> Self {
        Self::with_flood_and(groups, &[]).await
    }

    /// The same, and in these others.
    pub async fn with_flood_and(groups: usize, others: &[&str]) -> Self {
        let program = Program::new("slapd");
        let slapd = find("slapd");
        let slapd = slapd.to_string_lossy();
        let dir = &program.dir;
        fs::create_dir(dir.join("db")).unwrap();
        fs::write(
            dir.join("slapd.conf"),
            configuration(&dir.to_string_lossy()),
        )
        .unwrap();
        let bob = "userPassword: bob-secret\n";
        let named: String = (0..groups)
            .map(|number| format!("memberOf: cn=flood-{number},ou=groups,dc=example,dc=org\n"))
            .chain(others.iter().map(|dn| format!("memberOf: {dn}\n")))
            .collect();
        let mut entries = ENTRIES.replace(bob, &format!("{bob}{named}"));
        for number in 0..groups {
            write!(
                entries,
                "\ndn: cn=flood-{number},ou=groups,dc=example,dc=org\nobjectClass: groupOfNames\n\
                 cn: flood-{number}\nmember: uid=bob,ou=people,dc=example,dc=org\n"
            )
            .unwrap();
        }
        fs::write(dir.join("entries.ldif"), entries).unwrap();
        // slapd is slapadd, too, where it is called so.
        let mut load = Command::new(&*slapd);
        load.args(["-T", "add", "-q", "-f", "slapd.conf", "-l", "entries.ldif"]);
        let loaded = load.current_dir(dir).output().unwrap();
        let said = String::from_utf8_lossy(&loaded.stderr);
        assert!(loaded.status.success(), "slapadd: {said}");
        let ports = ports::free::<2>().unwrap();
        let urls = format!(
            "ldaps://localhost:{} ldap://localhost:{}",
            ports[0], ports[1]
        );
        // 256: a line for each operation.
        program.run(&[&slapd, "-h", &urls, "-f", "slapd.conf", "-d", "256"]);
        let this = Self { program, ports };
        for port in ports {
            crate::testing::eventually("slapd", async || {
                let connected = std::net::TcpStream::connect(("localhost", port));
                connected.map(drop).map_err(|error| (error, this.log()))
            })
            .await;
        }
        this
    }

    /// Where it speaks TLS from the first byte on.
    #[must_use]
    pub fn ldaps(&self) -> String {
        format!("ldaps://localhost:{}", self.ports[0])
    }

    /// Where it speaks TLS when it is asked to.
    #[must_use]
    pub fn ldap(&self) -> String {
        format!("ldap://localhost:{}", self.ports[1])
    }

    /// The CA that signed its certificate, as PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.program.ca
    }

    /// The file of that CA.
    #[must_use]
    pub fn ca_file(&self) -> std::path::PathBuf {
        self.program.dir.join(CA)
    }

    /// Every operation so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// Ends it; its ports refuse connections from then on.
    pub fn kill(&self) {
        self.program.kill();
    }
}

/// It takes an empty password for an anonymous login, as some directories do.
fn configuration(dir: &str) -> String {
    format!(
        r#"include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile {dir}/slapd.pid
TLSCACertificateFile {dir}/{CA}
TLSCertificateFile {dir}/{CERTIFICATE}
TLSCertificateKeyFile {dir}/{KEY}
allow bind_anon_cred bind_anon_dn
sizelimit unlimited
referral ldap://other.example.org/
database mdb
suffix "dc=example,dc=org"
directory {dir}/db
maxsize 1073741824
index objectClass,uid,member,memberUid,mail eq
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=underpass,dc=example,dc=org" read by * none
"#
    )
}
