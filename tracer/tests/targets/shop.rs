//! A Rust program with names that have to be demangled: a module, a method, a generic function.

use std::hint::black_box;

mod checkout {
    use super::black_box;

    pub struct Cart {
        pub total: u64,
    }

    impl Cart {
        #[inline(never)]
        pub fn add(&mut self, item: &str, count: u32) -> u64 {
            black_box(item);
            self.total += u64::from(count);
            self.total
        }
    }

    #[inline(never)]
    pub fn largest<T: Ord>(a: T, b: T) -> T {
        black_box(a.max(b))
    }
}

fn main() {
    // The compiler must neither know what is passed nor that a result is not used, or it leaves
    // both out.
    let mut cart = checkout::Cart { total: 0 };
    black_box(cart.add(black_box("äpfel"), 3));
    black_box(cart.add(black_box("pear"), 1));
    let (a, b) = black_box((-5_i64, -7));
    println!("{} {}", cart.total, checkout::largest(a, b));
}
