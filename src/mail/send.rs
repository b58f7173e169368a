//! Owns: which way a mail leaves this host. Must not: know how, or keep what could not be sent.

use std::path::Path;

use rustix::fs::{Access, access};

use super::{Error, message, program, smtp};
use crate::config::{Mail, Transport};

/// Sends the bytes of a mail to all who are named by its header; those recipients that were refused while others were taken.
///
/// # Errors
/// Nobody gets it, as far as can be known.
pub fn send(mail: &Mail, bytes: &[u8]) -> Result<Vec<Error>, Error> {
    match &mail.transport {
        Transport::Sendmail(program) => program::send(program, &mail.to, bytes, program::TIMEOUT),
        Transport::Smtp(smtp) => smtp::send(smtp, message::envelope(mail)?, bytes),
    }
}

/// Whether a mail could be sent now: the program may be run, or the server is there, over TLS, and takes the login. No mail
/// is sent.
///
/// # Errors
/// It could not.
pub fn reach(mail: &Mail) -> Result<(), Error> {
    match &mail.transport {
        Transport::Sendmail(program) => executable(program),
        Transport::Smtp(smtp) => message::envelope(mail).and_then(|_| smtp::reach(smtp)),
    }
}

/// The way in words.
pub fn way(mail: &Mail) -> String {
    match &mail.transport {
        Transport::Sendmail(program) => program.display().to_string(),
        Transport::Smtp(smtp) => format!("mail server {}:{}", smtp.host, smtp.port),
    }
}

fn executable(program: &Path) -> Result<(), Error> {
    let found = std::fs::metadata(program).and_then(|found| match found.is_file() {
        true => Ok(access(program, Access::EXEC_OK)?),
        false => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no file")),
    });
    found.map_err(|source| Error::Sendmail { program: program.to_owned(), source })
}
