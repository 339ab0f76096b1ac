/* One flag that two threads may try to take at once. */
#ifndef CYLSTM_ATOMIC_H
#define CYLSTM_ATOMIC_H

#ifdef _MSC_VER
#include <intrin.h>
static __inline char flag_take(volatile char *flag) { return _InterlockedExchange8(flag, 1) == 0; }
static __inline void flag_drop(volatile char *flag) { _InterlockedExchange8(flag, 0); }
#else
static inline char flag_take(volatile char *flag) { return __atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE) == 0; }
static inline void flag_drop(volatile char *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
#endif

#endif
