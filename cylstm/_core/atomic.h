/* What two threads look at and change at the same time: a flag that both may try to take, and numbers that one of them
 * writes and the other waits for; and how long it waits. */
#ifndef CYLSTM_ATOMIC_H
#define CYLSTM_ATOMIC_H

#include <Python.h>
#include <time.h>

/* Seconds of a clock that goes on while a thread does not run. */
static inline double seconds_now(void)
{
    struct timespec now;
#ifdef CLOCK_MONOTONIC
    clock_gettime(CLOCK_MONOTONIC, &now);
#else
    timespec_get(&now, TIME_UTC);
#endif
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#ifdef _MSC_VER
#include <intrin.h>
/* Not windows.h, which makes `near` and `far` nothing. */
__declspec(dllimport) int __stdcall SwitchToThread(void);
static __inline char flag_take(volatile char *flag) { return _InterlockedExchange8(flag, 1) == 0; }
static __inline void flag_drop(volatile char *flag) { _InterlockedExchange8(flag, 0); }
static __inline Py_ssize_t number_read(volatile Py_ssize_t *number)
{
    return (Py_ssize_t)_InterlockedCompareExchangePointer((void *volatile *)number, NULL, NULL);
}
static __inline void number_write(volatile Py_ssize_t *number, Py_ssize_t value)
{
    _InterlockedExchangePointer((void *volatile *)number, (void *)value);
}
static __inline void give_way(void) { SwitchToThread(); }
#else
#include <sched.h>
static inline char flag_take(volatile char *flag) { return __atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE) == 0; }
static inline void flag_drop(volatile char *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
static inline Py_ssize_t number_read(volatile Py_ssize_t *number) { return __atomic_load_n(number, __ATOMIC_ACQUIRE); }
static inline void number_write(volatile Py_ssize_t *number, Py_ssize_t value)
{
    __atomic_store_n(number, value, __ATOMIC_RELEASE);
}
static inline void give_way(void) { sched_yield(); }
#endif

#endif
