// Does one wrong thing on purpose, so that a sanitizer can show that it would be found.
#include <climits>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

namespace {

int HeapOverflow(int size) {
  auto data = std::make_unique<int[]>(static_cast<size_t>(size));
  return data[static_cast<size_t>(size)];
}

int UseAfterFree(int size) {
  int* data = new int[static_cast<size_t>(size)]{};
  delete[] data;
  return data[0];
}

// Reached through a volatile pointer, so that neither the allocation nor its loss is optimised
// away.
int Leak(int size) {
  char* volatile data = new char[static_cast<size_t>(size)];
  data[0] = 1;
  data = nullptr;
  return 0;
}

int SignedOverflow(int size) { return INT_MAX - 4 + size; }

int DataRace(int size) {
  int counter = 0;
  auto add = [&counter, size] {
    for (int i = 0; i < 1000 * size; ++i) ++counter;
  };
  std::thread other(add);
  add();
  other.join();
  return counter;
}

}  // namespace

int main(int argc, char** argv) {
  const char* kind = argc == 2 ? argv[1] : "";
  const int size = 4 + argc;  // known at run time only
  const struct {
    const char* name;
    int (*run)(int);
  } kFaults[] = {{"heap_overflow", HeapOverflow},
                 {"use_after_free", UseAfterFree},
                 {"leak", Leak},
                 {"signed_overflow", SignedOverflow},
                 {"data_race", DataRace}};
  for (const auto& fault : kFaults) {
    if (std::strcmp(kind, fault.name) == 0) {
      std::printf("%d\n", fault.run(size));
      return 0;
    }
  }
  std::fprintf(stderr, "usage: seeded_fault KIND\n");
  return 2;
}
