// A C++ program with names that have to be demangled: namespaces, a method, an overload, a template.
#include <cstdio>
#include <string>

namespace shop {

class Cart {
  public:
    __attribute__((noinline)) int add(const char *item, int count) {
        __asm__ volatile("" : : "r"(item) : "memory");
        return total += count;
    }
    __attribute__((noinline)) int add(const std::string &item) { return add(item.c_str(), 1); }

  private:
    int total = 0;
};

template <typename T> __attribute__((noinline)) T largest(T a, T b) {
    __asm__ volatile("" : "+r"(a) : : "memory");
    return a > b ? a : b;
}

} // namespace shop

int main() {
    shop::Cart cart;
    cart.add("apples", 3);
    cart.add(std::string("pear"));
    std::printf("%d %ld\n", shop::largest<int>(-5, -7), shop::largest<long>(5, 7));
    return 0;
}
