#include "layout.h"

#include <string.h>

#define MAGIC 0x545345554754464cULL

static uint64_t mix(uint64_t x) /* splitmix64 */
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static uint64_t checksum(const void *data, int words)
{
    const uint64_t *word = data;
    uint64_t sum = 0x6a09e667f3bcc908ULL;
    for (int i = 0; i < words; i++) {
        sum = (sum ^ word[i]) * 0x100000001b3ULL;
        sum ^= sum >> 29;
    }
    return sum | 1; /* never zero: an all-zero block is not valid */
}

int64_t record_offset(uint64_t number)
{
    return RING_BYTES + (int64_t)(number - 1) * (int64_t)sizeof(struct record);
}

/* One pass fills all slots, the next takes them away in three ways, and so on. */
enum churn churn_kind(uint64_t operation)
{
    uint64_t pass = (operation - 1) / CHURN_SLOTS;
    if (pass % 2 == 0)
        return CHURN_DATA;
    return CHURN_ZERO + (enum churn)((pass / 2 + operation) % 3);
}

uint64_t churn_slot(uint64_t operation) { return (operation - 1) % CHURN_SLOTS; }

static void make_head(struct head *head, char disk, enum kind kind, uint64_t number, uint64_t index)
{
    head->magic = MAGIC;
    head->disk = (uint32_t)disk;
    head->kind = kind;
    head->number = number;
    head->index = index;
}

static int head_is(const struct head *head, char disk, enum kind kind, uint64_t index)
{
    return head->magic == MAGIC && head->disk == (uint32_t)disk && head->kind == (uint32_t)kind &&
           head->index == index;
}

void make_record(struct record *record, char disk, uint64_t number, const struct state *state)
{
    memset(record, 0, sizeof *record);
    make_head(&record->head, disk, KIND_RECORD, number, number);
    record->state = *state;
    record->sum = checksum(record, sizeof *record / 8 - 1);
}

int record_is(const struct record *record, char disk, uint64_t number)
{
    return head_is(&record->head, disk, KIND_RECORD, number) && record->head.number == number &&
           record->sum == checksum(record, sizeof *record / 8 - 1);
}

void make_block(struct block *block, char disk, enum kind kind, uint64_t number, uint64_t index)
{
    make_head(&block->head, disk, kind, number, index);
    uint64_t seed = mix(number ^ mix(index ^ mix((uint64_t)disk << 8 | kind)));
    for (unsigned i = 0; i < sizeof block->payload / 8; i++) {
        seed ^= seed << 13; /* xorshift64: incompressible and cheap under emulation */
        seed ^= seed >> 7;
        seed ^= seed << 17;
        block->payload[i] = seed;
    }
    block->sum = checksum(block, BLOCK / 8 - 1);
}

int block_is_valid(const struct block *block, char disk, enum kind kind, uint64_t index)
{
    return head_is(&block->head, disk, kind, index) &&
           block->sum == checksum(block, BLOCK / 8 - 1);
}

int all_zero(const void *data, int length)
{
    const uint64_t *word = data;
    for (int i = 0; i < length / 8; i++)
        if (word[i])
            return 0;
    return 1;
}
