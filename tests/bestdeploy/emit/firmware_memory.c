// SPDX-License-Identifier: MIT
// The memory functions of firmware/memory.h against plain statements of what they do. Returns the
// number of the check that fails, 0 when none does.

#include "memory.h"

int main(void);
void board_print(const char* text);

enum { N = 64 };
static unsigned char a[N], b[N], kept[N];

/// The same bytes in all three.
static void fill(void) {
  for (int i = 0; i < N; ++i) a[i] = b[i] = kept[i] = (unsigned char)(i * 7 + 1);
}

static int differ(void) {
  for (int i = 0; i < N; ++i) {
    if (a[i] != b[i]) return 1;
  }
  return 0;
}

static int move_is_wrong(size_t to, size_t from, size_t n) {
  fill();
  for (size_t i = 0; i < n; ++i) b[to + i] = kept[from + i];
  return memmove(a + to, a + from, n) != a + to || differ();
}

int main(void) {
  volatile size_t n;  // sizes that the compiler cannot know
  for (size_t to = 0; to < 20; ++to) {
    for (size_t from = 0; from < 20; ++from) {
      for (n = 0; n < 40; ++n) {
        if (move_is_wrong(to, from, n)) return 1;
      }
    }
  }
  n = 5;
  fill();
  for (size_t i = 0; i < n; ++i) b[3 + i] = 0xAB;
  if (memset(a + 3, 0x1AB, n) != a + 3 || differ()) return 2;
  fill();
  for (size_t i = 0; i < n; ++i) b[50 + i] = kept[1 + i];
  if (memcpy(a + 50, a + 1, n) != a + 50 || differ()) return 3;
  n = N;
  fill();
  if (memcmp(a, b, n) != 0) return 4;
  a[N - 1] = 0x80;
  b[N - 1] = 0x7F;
  if (memcmp(a, b, n) <= 0 || memcmp(b, a, n) >= 0) return 5;
  n = N - 1;
  return memcmp(a, b, n) == 0 ? 0 : 6;
}
