//! Owns: which way a mail leaves this host. Must not: know how, or keep what could not be sent.

use std::path::Path;

use rustix::fs::{Access, access};

use super::{Error, message, program, secret, smtp};
use crate::config::{Mail, Transport};
use crate::sys::shebang;
use crate::sys::trust::{self, Refused};

/// Sends the bytes of a mail to all who are named by its header; those recipients that were refused while others were taken.
///
/// # Errors
/// Nobody gets it, as far as can be known.
pub fn send(mail: &Mail, bytes: &[u8]) -> Result<Vec<Error>, Error> {
    trusted(mail)?;
    match &mail.transport {
        Transport::Sendmail(program) => {
            executable(program).and_then(|()| program::send(program, &mail.to, bytes, program::TIMEOUT))
        }
        Transport::Smtp(smtp) => smtp::send(smtp, message::envelope(mail)?, bytes),
    }
}

/// Whether a mail could be sent now: the program may be run, or the server is there, over TLS, and takes the login. No mail
/// is sent.
///
/// # Errors
/// It could not.
pub fn reach(mail: &Mail) -> Result<(), Error> {
    trusted(mail)?;
    match &mail.transport {
        Transport::Sendmail(program) => executable(program),
        Transport::Smtp(smtp) => message::envelope(mail).and_then(|_| smtp::reach(smtp)),
    }
}

/// What of the way another user could change. What does not exist is reported where it is used.
pub fn untrusted(mail: &Mail) -> Vec<Error> {
    let judged = match &mail.transport {
        Transport::Sendmail(program) => vec![("the program `sendmail`", trust::file(program))],
        Transport::Smtp(smtp) => {
            let password = smtp.login.as_ref().and_then(|login| secret::file_of(&login.password));
            let password = password.map(|path| ("the password file", trust::input(&path)));
            let authority = smtp.ca_file.as_ref().map(|path| ("`ca_file`", trust::input(path)));
            password.into_iter().chain(authority).collect()
        }
    };
    let refused = judged.into_iter().filter_map(|(what, judged)| Some((what, judged.err()?)));
    let refused = refused.filter(|(_, refused)| matches!(refused, Refused::Untrusted { .. }));
    refused.map(|(what, source)| Error::Untrusted { what, source }).collect()
}

fn trusted(mail: &Mail) -> Result<(), Error> {
    untrusted(mail).into_iter().next().map_or(Ok(()), Err)
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
    found.map_err(|source| Error::Sendmail { program: program.to_owned(), source })?;
    Ok(shebang::check(program)?)
}
