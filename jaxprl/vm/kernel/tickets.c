/* What the loops of all threads share. The functions that they call stand above, translated from array code; before them
   stand the layouts and the sizes: NODES of a program, WORDS of an instruction, COLUMNS of an outcome. */

static inline int32_t taken(int32_t *tickets) { return __atomic_fetch_add(tickets, 1, __ATOMIC_RELAXED); }

/* The instructions of a program. Its nodes come first, and behind them there are zeros. */
static void compile(const int32_t *nodes, uint32_t *code)
{
    if (nodes[SHORT] == 0)
        short_instructions(nodes, code);
    else
        instructions(nodes, code);
}
