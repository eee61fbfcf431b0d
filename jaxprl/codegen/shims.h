/* What a text in CUDA needs to be compiled as C++ for a CPU: threads of the operating system stand for those of a GPU,
   and each says who it is before it calls a kernel. */
#define __global__
#define __launch_bounds__(...)

struct dimensions {
    unsigned x;
};
static thread_local struct dimensions threadIdx, blockIdx, blockDim, gridDim;

extern "C" void be_thread(int thread, int threads)
{
    threadIdx.x = thread, blockIdx.x = 0, blockDim.x = threads, gridDim.x = 1;
}

static inline int atomicAdd(int *place, int change) { return __atomic_fetch_add(place, change, __ATOMIC_SEQ_CST); }

static inline int atomicMin(int *place, int number)
{
    int old = __atomic_load_n(place, __ATOMIC_SEQ_CST);
    while (number < old
           && !__atomic_compare_exchange_n(place, &old, number, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    return old;
}

/* Each thread is a warp of its own. */
static inline bool __all_sync(unsigned, bool holds) { return holds; }
static inline unsigned __ballot_sync(unsigned, bool holds) { return holds; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }

static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

