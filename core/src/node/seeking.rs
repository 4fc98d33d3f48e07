//! What a peer is told of where others are.
//!
//! An answer needs no journal and no machine: it is read from who is connected and from the book. Nobody is asked on.

use super::Node;
use crate::id::{ConnId, PublicKey};
use crate::identity::seek::{Seek, Seen};
use crate::transport::Transport;

impl<T: Transport> Node<T> {
    /// A peer asks where somebody is: it is told if we know and may say so.
    pub(super) fn sought(&mut self, conn: ConnId, asker: PublicKey, seek: Seek) {
        if !self.seeks.hears(self.now, &asker) {
            return self.refuse("seek-flood");
        }
        let key = seek.key;
        let link = self.links.of(&key).filter(|(_, l)| l.identified).and_then(|(c, _)| self.addr_of(c));
        let addr = self.book.where_is(&self.config.topics, &asker, &key, link, self.wall);
        if let Some(addr) = addr {
            self.send_on(conn, &Seen { key, addr }.to_frame());
        }
    }
}
