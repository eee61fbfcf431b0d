"""What texts in C and CUDA begin with, and the names that nothing in them can have."""

from __future__ import annotations

_COUNTED = """\
/* What C leaves open, as XLA defines it: dividing by 0 sets all bits, and dividing the lowest number by -1 gives that
   number. */
#define COUNTED(kind) \\
    static inline kind minimum_##kind(kind a, kind b) { return a < b ? a : b; } \\
    static inline kind maximum_##kind(kind a, kind b) { return a > b ? a : b; } \\
    static inline bool is_minus_1_##kind(kind a) { return a == (kind)-1 && (kind)-1 < (kind)0; } \\
    static inline kind divide_##kind(kind a, kind b) \\
    { \\
        return b == (kind)0 ? (kind)-1 : is_minus_1_##kind(b) ? (kind)((kind)0 - a) : (kind)(a / b); \\
    } \\
    static inline kind remainder_##kind(kind a, kind b) \\
    { \\
        return b == (kind)0 ? a : is_minus_1_##kind(b) ? (kind)0 : (kind)(a % b); \\
    }
COUNTED(int8_t) COUNTED(int16_t) COUNTED(int32_t) COUNTED(int64_t)
COUNTED(uint8_t) COUNTED(uint16_t) COUNTED(uint32_t) COUNTED(uint64_t)

/* The number of bits that are set, and of zeros in front of the first of them. */
static inline int popcnt(uint64_t x) { int n = 0; for (; x; x &= x - 1) n++; return n; }
static inline int leading_zeros(uint64_t x, int bits) { while (x) { x >>= 1; bits--; } return bits; }
"""
PRELUDE = f"""\
#include <stdbool.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>

{_COUNTED}"""
"""What every text in C begins with."""
CUDA_PRELUDE = f"""\
typedef signed char int8_t;
typedef short int16_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#define restrict __restrict__

/* Sums of 32 bits wrap around. In C++ signed overflow is undefined, and NVRTC has no flag like -fwrapv. */
struct int32_t {{
    int value;
    int32_t() = default;
    constexpr int32_t(int value) : value(value) {{}}
    template <class Number> constexpr explicit int32_t(Number number) : value((int)number) {{}}
    template <class Number> constexpr explicit operator Number() const {{ return (Number)value; }}
}};
#define WRAPS(sign) \\
    static inline constexpr int32_t operator sign(int32_t a, int32_t b) \\
    {{ \\
        return (int)((unsigned)a.value sign (unsigned)b.value); \\
    }}
#define PLAIN(kind, sign) \\
    static inline constexpr kind operator sign(int32_t a, int32_t b) {{ return a.value sign b.value; }}
WRAPS(+) WRAPS(-) WRAPS(*) WRAPS(&) WRAPS(|) WRAPS(^)
PLAIN(int32_t, /) PLAIN(int32_t, %) PLAIN(int32_t, >>)
PLAIN(bool, ==) PLAIN(bool, !=) PLAIN(bool, <) PLAIN(bool, >) PLAIN(bool, <=) PLAIN(bool, >=)
static inline constexpr int32_t operator~(int32_t a) {{ return ~a.value; }}
static inline constexpr int32_t operator-(int32_t a) {{ return 0 - a; }}

/* Copies entries, four bytes at a time where size and addresses allow it, otherwise one by one. */
typedef unsigned __attribute__((may_alias)) word;
template <class Word> static inline void copy_words(void *target, const void *source, int count)
{{
#pragma unroll 1
    for (int i = 0; i < count; i++)
        ((Word *)target)[i] = ((const Word *)source)[i];
}}
template <class Entry> static inline void copy(Entry *restrict target, const Entry *restrict source, int count)
{{
    const int bytes = count * (int)sizeof(Entry);
    if (bytes % 4 == 0 && (((uint64_t)target | (uint64_t)source) & 3) == 0)
        copy_words<word>(target, source, bytes / 4);
    else
        copy_words<Entry>(target, source, count);
}}

{_COUNTED}"""
"""What every text in CUDA begins with."""
_WORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const const_cast constexpr
continue copy default delete do double dynamic_cast else enum extern false float for friend goto if inline int
leading_zeros linux long memcpy mutable namespace new not not_eq nullptr operator or or_eq popcnt private protected
public register reinterpret_cast restrict return run scratch seen short signed sizeof static static_cast struct switch
taken template this thread threads throw true try typedef typeid typename typeof union unix unsigned using virtual
void volatile wchar_t while work xor xor_eq
"""
RESERVED = frozenset(_WORDS.split())
"""Words that no variable can be named: those of C and C++, what compilers define, and what the text calls."""
