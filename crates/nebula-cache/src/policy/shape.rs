//! What several policies say word for word: where their queues and their memory are.

/// For a policy with more than one queue, which finds an entry's by `self.queue(place)`.
macro_rules! queues_by_place {
    () => {
        fn remove<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
            let place = nodes.node(token).place;
            self.queue(place).unlink(nodes, token);
        }

        fn reweigh<N: Nodes>(&mut self, nodes: &N, token: u32, old: usize) {
            let new = nodes.weight(token);
            self.queue(nodes.node(token).place).reweigh(old, new);
        }

        fn relocate<N: Nodes>(&mut self, nodes: &mut N, from: u32, to: u32) {
            let place = nodes.node(to).place;
            self.queue(place).relocate(nodes, from, to);
        }
    };
}

/// For a policy whose entries all stand in `self.queue`, where the oldest leaves first.
macro_rules! oldest_leaves {
    () => {
        #[inline]
        fn insert<N: Nodes>(&mut self, nodes: &mut N, token: u32, _newcomer: Newcomer) {
            self.queue.push(nodes, token);
        }

        #[inline]
        fn evict<N: Nodes>(&mut self, nodes: &mut N, _newcomer: Option<&Newcomer>) -> Option<u32> {
            let token = self.queue.tail();
            if token == NONE {
                return None;
            }
            self.queue.unlink(nodes, token);
            Some(token)
        }

        #[inline]
        fn exchange<N: Nodes>(
            &mut self,
            nodes: &mut N,
            _newcomer: Newcomer,
        ) -> Option<(u32, Option<Node>)> {
            let token = self.queue.tail();
            if token == NONE {
                return None;
            }
            let links = nodes.node(token).links;
            self.queue.turn(links);
            Some((token, Some(Node { links, ..Node::default() })))
        }

        fn remove<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
            self.queue.unlink(nodes, token);
        }

        fn restore<N: Nodes>(&mut self, nodes: &mut N, token: u32) {
            self.queue.push(nodes, token);
        }

        fn reweigh<N: Nodes>(&mut self, nodes: &N, token: u32, old: usize) {
            self.queue.reweigh(old, nodes.weight(token));
        }

        fn relocate<N: Nodes>(&mut self, nodes: &mut N, from: u32, to: u32) {
            self.queue.relocate(nodes, from, to);
        }

        fn coldest_first<N: Nodes>(&self, nodes: &N, each: impl FnMut(u32)) {
            self.queue.oldest_first(nodes, each);
        }

        fn validate<N: Nodes>(&self, nodes: &N, len: usize, weight: usize) -> Result<(), String> {
            self.queue.validate(nodes, |_| true)?;
            tally(&[&self.queue], len, weight)
        }
    };
}

/// For a policy that remembers nothing of entries that are gone.
macro_rules! no_memory {
    () => {
        type Memory = ();

        fn allocate(&self, _bytes: usize) -> Result<(), TryReserveError> {
            Ok(())
        }

        fn adopt(&mut self, _memory: ()) {}

        fn bytes_of(_memory: &()) -> usize {
            0
        }
    };
}

/// For a policy whose memory is all in one field, a `$kind` made of `$part`s.
macro_rules! memory_in {
    ($field:ident: $kind:ident of $part:ident) => {
        type Memory = Vec<$part>;

        fn wanted(&self, slots: usize) -> usize {
            self.$field.wanted(slots)
        }

        fn allocate(&self, bytes: usize) -> Result<Vec<$part>, TryReserveError> {
            $kind::allocate(bytes)
        }

        fn adopt(&mut self, memory: Vec<$part>) -> Vec<$part> {
            self.$field.adopt(memory)
        }

        fn bytes_of(memory: &Vec<$part>) -> usize {
            $kind::bytes_of(memory)
        }

        fn bytes(&self) -> usize {
            self.$field.bytes()
        }
    };
}

pub(crate) use {memory_in, no_memory, oldest_leaves, queues_by_place};
