// SPDX-License-Identifier: MIT
// Writing text as printf does, for the few conversions that the tools use: %s %d %lu %zu %lld %.Nf
// %.Ng. A static program that takes printf of a C library takes all of it, with arithmetic of long
// doubles: a tenth of bst_run for arm64.

#ifndef BST_TOOLS_TEXT_H_
#define BST_TOOLS_TEXT_H_

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define BST_LIKE_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define BST_LIKE_PRINTF(text, first)
#endif

enum { BST_TEXT_BYTES = 48 };  ///< room for one number

/// Digits of n before `end`; returns the first.
static inline char* bst_digits(char* end, uint64_t n) {
  do {
    *--end = (char)('0' + n % 10);
    n /= 10;
  } while (n != 0);
  return end;
}

static inline void bst_put_integer(FILE* stream, uint64_t n, int negative) {
  char text[BST_TEXT_BYTES];
  char* const end = text + sizeof text;
  char* from = bst_digits(end, n);
  if (negative) *--from = '-';
  fwrite(from, 1, (size_t)(end - from), stream);
}

/// 0 <= x < 2^63 / 10^places, with that many places.
static inline void bst_put_fixed(FILE* stream, double x, int places) {
  uint64_t unit = 1;
  for (int i = 0; i < places; ++i) unit *= 10;
  const uint64_t n = (uint64_t)(x * (double)unit + 0.5);
  bst_put_integer(stream, n / unit, 0);
  if (places == 0) return;
  char text[BST_TEXT_BYTES];
  char* const end = text + sizeof text;
  bst_digits(end, unit + n % unit);  // a one, then the places with their zeros
  fputc('.', stream);
  fwrite(end - places, 1, (size_t)places, stream);
}

/// 10^n, n >= 0; exact up to 10^22.
static inline double bst_power_of_ten(int n) {
  double power = 1;
  for (; n > 0; --n) power *= 10;
  return power;
}

/// A finite number in `n` <= 17 significant digits, without zeros at the end; as %g, but for a last
/// digit now and then: a float is read back from nine of them.
static inline void bst_put_significant(FILE* stream, double x, int n) {
  char text[BST_TEXT_BYTES];
  int exponent = 0;
  if (x < 0) fputc('-', stream);
  x = x < 0 ? -x : x;
  if (x == 0) {
    fputc('0', stream);
    return;
  }
  while (x >= bst_power_of_ten(exponent + 1)) ++exponent;
  while (exponent > -300 && x * bst_power_of_ten(-exponent) < 1) --exponent;
  const int up = n - 1 - exponent;
  const double scaled = up >= 0 ? x * bst_power_of_ten(up) : x / bst_power_of_ten(-up);
  uint64_t digits = (uint64_t)(scaled + 0.5);
  char* const end = text + sizeof text;
  char* from = bst_digits(end, digits);
  if (end - from > n) ++exponent;  // rounded up to the next power
  size_t length = (size_t)(end - from);
  while (length > 1 && from[length - 1] == '0') --length;
  if (exponent < -4 || exponent >= n) {
    fputc(*from, stream);
    if (length > 1) fputc('.', stream);
    fwrite(from + 1, 1, length - 1, stream);
    fputs(exponent < 0 ? "e-" : "e+", stream);
    if (exponent > -10 && exponent < 10) fputc('0', stream);
    bst_put_integer(stream, (uint64_t)(exponent < 0 ? -exponent : exponent), 0);
    return;
  }
  if (exponent < 0) {
    fputs("0.", stream);
    for (int i = -1; i > exponent; --i) fputc('0', stream);
    fwrite(from, 1, length, stream);
    return;
  }
  for (size_t i = 0; i <= (size_t)exponent || i < length; ++i) {
    if (i == (size_t)exponent + 1) fputc('.', stream);
    fputc(i < length ? from[i] : '0', stream);
  }
}

static inline void bst_vput(FILE* stream, const char* format, va_list arguments)
    BST_LIKE_PRINTF(2, 0);
static inline void bst_vput(FILE* stream, const char* format, va_list arguments) {
  for (; *format != '\0'; ++format) {
    const size_t plain = strcspn(format, "%");
    fwrite(format, 1, plain, stream);
    format += plain;
    if (*format == '\0') return;
    ++format;
    int precision = 0;
    if (*format == '.') {
      for (++format; *format >= '0' && *format <= '9'; ++format) {
        precision = 10 * precision + (*format - '0');
      }
    }
    if (*format == 's') {
      fputs(va_arg(arguments, const char*), stream);
    } else if (*format == 'f') {
      bst_put_fixed(stream, va_arg(arguments, double), precision);
    } else if (*format == 'g') {
      bst_put_significant(stream, va_arg(arguments, double), precision);
    } else if (*format == 'z') {  // %zu
      ++format;
      bst_put_integer(stream, va_arg(arguments, size_t), 0);
    } else if (*format == 'l' && format[1] == 'u') {  // %lu
      ++format;
      bst_put_integer(stream, va_arg(arguments, unsigned long), 0);
    } else {  // %d, %lld
      const int is_long = *format == 'l';
      const long long n = is_long ? va_arg(arguments, long long) : va_arg(arguments, int);
      if (is_long) format += 2;
      bst_put_integer(stream, n < 0 ? 0 - (uint64_t)n : (uint64_t)n, n < 0);
    }
  }
}

/// Like fprintf, for the conversions of the file head.
static inline void bst_put(FILE* stream, const char* format, ...) BST_LIKE_PRINTF(2, 3);
static inline void bst_put(FILE* stream, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  bst_vput(stream, format, arguments);
  va_end(arguments);
}

#endif  // BST_TOOLS_TEXT_H_
