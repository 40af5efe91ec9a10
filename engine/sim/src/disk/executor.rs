//! Polls futures: one thread, no runtime, in an order that only the wakes decide.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// More polls without a result than any future of a history takes.
const POLLS_MAX: u64 = 10_000_000;

/// Tasks, and which of them have been woken.
#[derive(Default)]
pub(super) struct Executor {
    tasks: BTreeMap<u64, Task>,
    spawned: u64,
    woken: Arc<Woken>,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

/// Ids of tasks, in the order of their wakes. A waker has to be `Send`, hence the lock.
#[derive(Default)]
struct Woken(Mutex<VecDeque<u64>>);

impl Woken {
    fn push(&self, id: u64) {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !ids.contains(&id) {
            ids.push_back(id);
        }
    }

    fn pop(&self) -> Option<u64> {
        let mut ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.pop_front()
    }

    fn is_empty(&self) -> bool {
        let ids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.is_empty()
    }
}

struct TaskWaker {
    id: u64,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.woken.push(self.id);
    }
}

impl Executor {
    pub(super) fn spawn(&mut self, future: impl Future<Output = ()> + 'static) {
        let id = self.spawned;
        self.spawned += 1;
        let waker = Waker::from(Arc::new(TaskWaker {
            id,
            woken: Arc::clone(&self.woken),
        }));
        let future = Box::pin(future);
        self.tasks.insert(id, Task { future, waker });
        self.woken.push(id);
    }

    /// Polls the woken tasks until all wait.
    pub(super) fn run(&mut self) {
        let mut polls = 0;
        while let Some(id) = self.woken.pop() {
            let Some(task) = self.tasks.get_mut(&id) else {
                continue;
            };
            polls += 1;
            assert!(polls < POLLS_MAX, "the tasks wake each other indefinitely");
            let mut context = Context::from_waker(&task.waker);
            if task.future.as_mut().poll(&mut context).is_ready() {
                self.tasks.remove(&id);
            }
        }
    }

    /// Returns `true` if a task can be polled now.
    pub(super) fn is_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// How many tasks have not ended.
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }
}

/// Returns the output of a future that waits for nothing but to be polled again.
pub(super) fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..POLLS_MAX {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("a future waits for what does not come");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[test]
    fn tasks_run_in_the_order_of_their_wakes_and_only_when_woken() {
        let mut executor = Executor::default();
        let said = Rc::new(RefCell::new(Vec::new()));
        let kept = Rc::new(RefCell::new(Vec::new()));
        for name in ["a", "b"] {
            let (said, kept) = (Rc::clone(&said), Rc::clone(&kept));
            let mut polls = 0;
            executor.spawn(std::future::poll_fn(move |context| {
                said.borrow_mut().push(name);
                kept.borrow_mut().push(context.waker().clone());
                polls += 1;
                match polls {
                    1 => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            }));
        }
        executor.run();
        assert!(!executor.is_woken());
        let wakers: Vec<Waker> = kept.borrow_mut().drain(..).collect();
        wakers[1].wake_by_ref();
        wakers[1].wake_by_ref();
        wakers[0].wake_by_ref();
        executor.run();
        assert_eq!(*said.borrow(), ["a", "b", "b", "a"]);
        assert_eq!(executor.len(), 0);
    }
}
