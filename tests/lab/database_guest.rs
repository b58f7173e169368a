//! A guest with a real database (`tests/lab/build-database-guest`), which the host reaches by TCP on its own port.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::builder::EMULATED;
use super::database::{Writer, answer, text};
use super::disk::escape;
use super::{BOOT_DEADLINE, Guest, Lab, free_port, run, virsh, wait_until};

/// The database in the guest. Its user is `db` and has no password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// MariaDB, with an empty database `d`.
    MariaDb,
    /// PostgreSQL; the database is `postgres`.
    PostgreSql,
}

/// A domain whose only disk, `vda`, contains an operating system and a database. Dropping it destroys and undefines the
/// domain.
pub struct DatabaseGuest {
    /// The domain.
    pub guest: Guest,
    database: Database,
    port: u16,
}

impl Lab {
    /// Defines a guest with a database, boots it, and waits until the database answers. Builds its image if that is
    /// missing, which needs the network the first time.
    pub fn database_guest(&self, name: &str, database: Database) -> DatabaseGuest {
        // QEMU's own user may not have access to a checkout.
        let system = self.path(&format!("{name}-system"));
        run("cp", &["-r", "--sparse=always", text(&built(database)), text(&system)]);
        let disk = system.join("base.qcow2");
        let port = free_port();
        let mut file = tempfile::NamedTempFile::new().expect("cannot create a file");
        file.write_all(domain(name, &system, &disk, port, database.port()).as_bytes()).expect("cannot write a file");
        virsh(&["define", text(file.path())]);
        let guest = DatabaseGuest { guest: self.adopt(name), database, port };
        guest.boot();
        guest
    }

    /// Adopts a domain that was restored from a backup of `original`, and boots it. It has the same port, so `original`
    /// must be off.
    pub fn restored_database_guest(&self, name: &str, original: &DatabaseGuest) -> DatabaseGuest {
        let guest = DatabaseGuest { guest: self.adopt(name), database: original.database, port: original.port };
        guest.boot();
        guest
    }
}

impl DatabaseGuest {
    /// Starts the machine, and waits until its agent and its database answer.
    pub fn boot(&self) {
        self.guest.boot();
        let (program, ping) = match self.database {
            Database::MariaDb => ("mariadb-admin", "ping"),
            Database::PostgreSql => ("pg_isready", "--quiet"),
        };
        let options = self.client_options();
        let arguments: Vec<_> = options.iter().map(String::as_str).chain([ping]).collect();
        let what = format!("the database of guest {}", self.guest.name());
        let began = std::time::Instant::now();
        wait_until(BOOT_DEADLINE, &what, || {
            let said = answer(program, &arguments);
            assert!(began.elapsed() < BOOT_DEADLINE / 2, "{what}: {said:?}; its log: {}", self.log());
            said.is_ok()
        });
    }

    /// Environment and arguments that clients and hooks of the database need to reach it.
    pub fn client_options(&self) -> Vec<String> {
        let port = format!("--port={}", self.port);
        let options = match self.database {
            // Clients since 11.4 require TLS, which the server in the guest does not have.
            Database::MariaDb => {
                vec!["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", &port, "--user=db", "--skip-ssl"]
            }
            Database::PostgreSql => vec!["--host=127.0.0.1", &port, "--username=db", "--dbname=postgres"],
        };
        options.into_iter().map(str::to_owned).collect()
    }

    /// A client on the host that reads statements from its input, and prints their results.
    pub fn client(&self) -> Command {
        let (program, options): (_, &[_]) = match self.database {
            Database::MariaDb => ("mariadb", &["--batch", "--skip-column-names", "--unbuffered"]),
            Database::PostgreSql => ("psql", &["--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1"]),
        };
        let mut client = Command::new(program);
        client.args(self.client_options()).args(options);
        client
    }

    /// Runs statements. Panics if one fails.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        let option = if self.database == Database::MariaDb { "--execute" } else { "--command" };
        let output = self.client().args([option, statements]).output().expect("cannot run the client");
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Starts a client on the host that writes rows 1, 2, 3, … to a table with the column `id`.
    pub fn writer(&self, table: &str) -> Writer {
        let table = table.to_owned();
        Writer::start(self.client(), move |n| format!("INSERT INTO {table} VALUES ({n}) RETURNING id;"))
    }

    /// Panics unless the database's own checker finds no fault in any table.
    pub fn assert_sound(&self) {
        let options = self.client_options();
        let options = options.iter().map(String::as_str);
        match self.database {
            Database::MariaDb => {
                let check = ["--check", "--extended", "--all-databases", "--silent"];
                let said = run("mariadb-check", &options.chain(check).collect::<Vec<_>>());
                assert_eq!(said.trim(), "", "guest {}", self.guest.name());
            }
            Database::PostgreSql => {
                let options = options.filter(|option| !option.starts_with("--dbname"));
                let check = ["--all", "--heapallindexed", "--install-missing"];
                run(
                    text(&super::database_postgresql::program("pg_amcheck")),
                    &options.chain(check).collect::<Vec<_>>(),
                );
            }
        }
    }

    /// The database's own log.
    pub fn log(&self) -> String {
        self.guest.agent_exec("cat /run/db.log").stdout
    }
}

impl Database {
    fn name(self) -> &'static str {
        match self {
            Database::MariaDb => "mariadb",
            Database::PostgreSql => "postgresql",
        }
    }

    /// Its address in the guest.
    fn port(self) -> u16 {
        match self {
            Database::MariaDb => 3306,
            Database::PostgreSql => 5432,
        }
    }
}

/// The directory of the guest's operating system, built if it is missing or old.
fn built(database: Database) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // Not the directory of `tests/lab/enter`, because that script keeps it locked.
    let lab = target.join("lab");
    let script = root.join("tests/lab/build-database-guest");
    run("flock", &[text(&lab), text(&script), database.name()]);
    lab.join(format!("database-{}", database.name()))
}

/// libvirt 9 cannot forward ports of a user network, so QEMU gets the arguments directly. The PCI address is one that
/// libvirt does not use.
fn domain(name: &str, system: &Path, disk: &Path, port: u16, inside: u16) -> String {
    let [system, disk] = [system, disk].map(|path| escape(text(path)));
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
         <name>{name}</name><memory unit='MiB'>512</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type>\
         <kernel>{system}/vmlinuz</kernel><initrd>{system}/initramfs</initrd><cmdline>console=ttyS0 quiet panic=1 {EMULATED}</cmdline></os>\
         <features><acpi/></features><cpu mode='maximum'/>\
         <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>\
         <source file='{disk}'/><target dev='vda' bus='virtio'/></disk>\
         <serial type='stdio'/><memballoon model='none'/>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>\
         <qemu:commandline><qemu:arg value='-netdev'/>\
         <qemu:arg value='user,id=database,hostfwd=tcp:127.0.0.1:{port}-:{inside}'/>\
         <qemu:arg value='-device'/><qemu:arg value='virtio-net-pci,netdev=database,addr=0x10,romfile='/></qemu:commandline>\
         </domain>",
        name = escape(name),
    )
}
