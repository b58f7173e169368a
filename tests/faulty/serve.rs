//! Implements the FUSE calls on a [`Tree`]. Each call first checks the rule.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::tree::{Kind, Op};
use super::{Call, Fault, Shared, State};

/// The kernel caches nothing, so every call arrives here.
const NOW: Duration = Duration::ZERO;
const BLOCK: u64 = 4096;
/// Blocks of the file system: 1 TiB.
const BLOCKS: u64 = 1 << 28;

pub(super) struct Server(pub(super) Arc<Shared>);

/// How to handle a call.
enum Verdict {
    Go,
    Fail(Errno),
    Hold,
}

impl Server {
    /// Answers a call as the rule requires, or with the result of `work`.
    fn answer<R: Send + 'static, T>(
        &self,
        call: Option<(Call, u64)>,
        reply: R,
        work: impl FnOnce(&mut State) -> Result<T, Errno>,
        give: impl FnOnce(R, Result<T, Errno>),
    ) {
        let mut state = self.0.state();
        let deaf = match judge(&mut state, call) {
            (Verdict::Go, deaf) => {
                let result = work(&mut state);
                // Release the lock first, because the caller may make its next call at once.
                drop(state);
                give(reply, result);
                deaf
            }
            (Verdict::Fail(error), _) => {
                drop(state);
                give(reply, Err(error));
                false
            }
            (Verdict::Hold, _) => {
                state.held.push(Box::new(reply));
                false
            }
        };
        if deaf {
            let mut state = self.0.state();
            state.deaf = true;
            while state.deaf {
                state = self.0.changed.wait(state).expect("no thread panics while it holds the lock");
            }
        }
    }
}

/// And whether no call is accepted after this one.
fn judge(state: &mut State, call: Option<(Call, u64)>) -> (Verdict, bool) {
    if state.hangs {
        return (Verdict::Hold, false);
    }
    let Some((call, bytes)) = call else { return (Verdict::Go, false) };
    let rule = state.rule.filter(|rule| rule.call == call);
    if rule.is_some() {
        state.moved += bytes;
    }
    match rule {
        Some(rule) if !matches!(call, Call::Read | Call::Write | Call::Create) || state.moved > rule.after => {
            state.met = true;
            match rule.fault {
                Fault::Error(error) => (Verdict::Fail(error), false),
                Fault::Hang => {
                    state.hangs = true;
                    (Verdict::Hold, false)
                }
                Fault::Deaf => (Verdict::Go, true),
            }
        }
        _ => (Verdict::Go, false),
    }
}

impl State {
    fn change(&mut self, op: Op) {
        self.tree.apply(&op);
        if let Some(log) = &mut self.log {
            log.push(op);
        }
    }

    fn sync(&mut self, ino: INodeNo) -> Result<(), Errno> {
        self.change(Op::Sync { ino: ino.0 });
        Ok(())
    }

    fn attr(&self, ino: u64) -> Result<FileAttr, Errno> {
        let node = self.tree.nodes.get(&ino).ok_or(Errno::ENOENT)?;
        let kind = match node.kind {
            Kind::File => FileType::RegularFile,
            Kind::Folder => FileType::Directory,
            Kind::Socket => FileType::Socket,
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + node.changed);
        let size = node.bytes.len() as u64;
        let mode = self.fixed.unwrap_or(node.mode);
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: (mode & 0o7777) as u16,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK as u32,
            flags: 0,
        })
    }

    /// The existing or future name of the file for this requested name.
    fn named(&self, dir: INodeNo, name: &OsStr) -> Result<String, Errno> {
        let name = name.to_str().ok_or(Errno::EINVAL)?;
        if !self.folds {
            return Ok(name.to_owned());
        }
        let name = name.trim_end_matches('.');
        let there = self.tree.nodes.get(&dir.0).into_iter().flat_map(|node| node.names.keys());
        let known = there.into_iter().find(|known| known.eq_ignore_ascii_case(name));
        Ok(known.map_or(name, String::as_str).to_owned())
    }

    fn make(&mut self, dir: INodeNo, name: &OsStr, kind: Kind, mode: u32) -> Result<FileAttr, Errno> {
        let name = self.named(dir, name)?;
        if self.tree.find(dir.0, &name).is_some() {
            return Err(Errno::EEXIST);
        }
        let ino = self.tree.unused();
        self.change(Op::Make { dir: dir.0, name, ino, kind, mode });
        self.attr(ino)
    }

    fn remove(&mut self, dir: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let name = self.named(dir, name)?;
        let ino = self.tree.find(dir.0, &name).ok_or(Errno::ENOENT)?;
        if !self.tree.nodes[&ino].names.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.change(Op::Remove { dir: dir.0, name });
        Ok(())
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&NOW, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn attributes(reply: ReplyAttr, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attr) => reply.attr(&NOW, &attr),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let work = |state: &mut State| {
            let ino = state.tree.find(dir.0, &state.named(dir, name)?).ok_or(Errno::ENOENT)?;
            state.attr(ino)
        };
        self.answer(None, reply, work, entry);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(None, reply, |state| state.attr(ino.0), attributes);
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let work = |state: &mut State| {
            if mode.is_some() && state.fixed.is_some() {
                return Err(Errno::EPERM);
            }
            if let Some(mode) = mode {
                state.change(Op::Mode { ino: ino.0, mode });
            }
            if let Some(length) = size {
                state.change(Op::Resize { ino: ino.0, length });
            }
            state.attr(ino.0)
        };
        self.answer(None, reply, work, attributes);
    }

    fn mknod(&self, _: &Request, dir: INodeNo, name: &OsStr, mode: u32, umask: u32, _: u32, reply: ReplyEntry) {
        let kind = if mode & 0o170_000 == 0o140_000 { Kind::Socket } else { Kind::File };
        self.answer(Some((Call::Create, 1)), reply, |state| state.make(dir, name, kind, mode & !umask), entry);
    }

    fn mkdir(&self, _: &Request, dir: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.answer(Some((Call::Create, 1)), reply, |state| state.make(dir, name, Kind::Folder, mode & !umask), entry);
    }

    fn create(&self, _: &Request, dir: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let work = |state: &mut State| state.make(dir, name, Kind::File, mode & !umask);
        self.answer(Some((Call::Create, 1)), reply, work, |reply, result| match result {
            Ok(attr) => reply.created(&NOW, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        });
    }

    fn unlink(&self, _: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(Some((Call::Unlink, 0)), reply, |state| state.remove(dir, name), empty);
    }

    fn rmdir(&self, _: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(Some((Call::Unlink, 0)), reply, |state| state.remove(dir, name), empty);
    }

    fn rename(
        &self,
        _: &Request,
        dir: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let work = |state: &mut State| {
            let (name, new) = (state.named(dir, name)?, state.named(to, new)?);
            let ino = state.tree.find(dir.0, &name).ok_or(Errno::ENOENT)?;
            let keeps = flags.contains(RenameFlags::RENAME_NOREPLACE);
            if keeps && state.tree.find(to.0, &new).is_some() {
                return Err(Errno::EEXIST);
            }
            state.change(Op::Rename { dir: dir.0, name, ino, to: (to.0, new) });
            Ok(())
        };
        self.answer(Some((Call::Rename, 0)), reply, work, empty);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = |state: &mut State| {
            let bytes = &state.tree.nodes.get(&ino.0).ok_or(Errno::ENOENT)?.bytes;
            let start = (offset as usize).min(bytes.len());
            Ok(bytes[start..(start + size as usize).min(bytes.len())].to_vec())
        };
        self.answer(Some((Call::Read, size.into())), reply, work, |reply, result| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let work = |state: &mut State| {
            state.change(Op::Write { ino: ino.0, offset, bytes: data.to_vec() });
            Ok(data.len() as u32)
        };
        self.answer(Some((Call::Write, data.len() as u64)), reply, work, |reply, result| match result {
            Ok(length) => reply.written(length),
            Err(error) => reply.error(error),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.answer(None, reply, |_| Ok(()), empty);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.answer(Some((Call::Fsync, 0)), reply, |state| state.sync(ino), empty);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.answer(Some((Call::Fsync, 0)), reply, |state| state.sync(ino), empty);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        let work = |state: &mut State| {
            let node = state.tree.nodes.get(&ino.0).ok_or(Errno::ENOENT)?;
            let named = node.names.iter().map(|(name, ino)| (*ino, name.clone()));
            let dots = [".", ".."].map(|name| (ino.0, name.to_owned()));
            let all: Vec<_> = dots.into_iter().chain(named).skip(offset as usize).collect();
            let kind = |ino| match state.tree.nodes[&ino].kind {
                Kind::File => FileType::RegularFile,
                Kind::Folder => FileType::Directory,
                Kind::Socket => FileType::Socket,
            };
            Ok(all.into_iter().map(|(ino, name)| (ino, kind(ino), name)).collect::<Vec<_>>())
        };
        self.answer(Some((Call::Readdir, 0)), reply, work, |mut reply, result| match result {
            Ok(entries) => {
                for (at, (ino, kind, name)) in entries.into_iter().enumerate() {
                    if reply.add(INodeNo(ino), offset + at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.answer(
            Some((Call::Statfs, 0)),
            reply,
            |_| Ok(()),
            |reply, result| match result {
                Ok(()) => reply.statfs(BLOCKS, BLOCKS / 2, BLOCKS / 2, 0, 0, BLOCK as u32, 255, BLOCK as u32),
                Err(error) => reply.error(error),
            },
        );
    }
}
