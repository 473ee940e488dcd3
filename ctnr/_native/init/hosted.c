/* SPDX-License-Identifier: Apache-2.0 */
/* The floor on a libc, for sanitizers and the fuzzer: see sys.h. Empty in the static init. */
#include "sys.h"
#ifdef CTNR_HOSTED
extern long syscall(long, ...);
extern int *__errno_location(void);

long sys6(long n, long a, long b, long c, long d, long e, long f)
{
    long r = syscall(n, a, b, c, d, e, f);
    return r == -1 ? -*__errno_location() : r;
}
#else
typedef int not_empty;
#endif
