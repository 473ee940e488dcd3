/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzzes the init's reading of plans by coverage (libFuzzer): whatever plan_check() takes must be safe to read.
 *
 *   clang -g -O1 -std=gnu11 -fsanitize=fuzzer,address,undefined -DCTNR_HOSTED -DCTNR_NO_MAIN -include string.h \
 *       tests/fuzz/fuzz_plan.c ctnr/_native/init/?*.c -o /tmp/fuzz_plan
 *   /tmp/fuzz_plan -max_total_time=600 -max_len=65536 CORPUS        (a corpus: ctnr.runtime.plan.Plan.encode() of some)
 */
#include "../../ctnr/_native/init/init.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1); /* aligned, and with its end at the end of the allocation */
    memcpy(copy, data, size);
    if (plan_check(copy, size) == 0) {
        struct init in = {.plan = copy, .head = (void *)copy};
        in.steps = (const void *)(in.head + 1);
        for (uint32_t n = 0; n < in.head->nsteps; n++) {
            const struct plan_step *s = &in.steps[n];
            for (int k = 0; k < PLAN_STRINGS; k++) {
                size_t len, count = 0, strings = 0;
                const char *text = plan_str(&in, s, k, &len);
                if (!text)
                    continue;
                if (text[len])
                    abort();
                if ((s->op == OP_EXEC && k < 2) || (s->op == OP_HOOK && (k == 1 || k == 2))) {
                    char **list = plan_list(&in, s, k, 1, &count);
                    for (; list[strings]; strings++)
                        if (strlen(list[strings]) > len)
                            abort();
                    if (strings != count)
                        abort();
                    SYS(munmap, list, (count + 2) * sizeof *list);
                }
                if (s->op == OP_FSMOUNT && k == 3) {
                    char key[PATH_MAX_], *value;
                    const char *rest = text;
                    while (*rest && plan_option(&rest, key, sizeof key, &value) == 0)
                        if (strlen(key) >= sizeof key || rest > text + len)
                            abort();
                }
            }
        }
    }
    free(copy);
    return 0;
}
