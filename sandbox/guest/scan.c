#include "layout.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH 64 /* blocks per read */

typedef void (*judge)(struct disk *, struct verdict *, const struct block *, uint64_t index);

static int read_fully(int fd, void *buffer, int64_t length, int64_t offset)
{
    memset(buffer, 0, (size_t)length); /* what lies beyond the end counts as absent */
    for (int64_t done = 0; done < length;) {
        ssize_t n = pread(fd, (char *)buffer + done, (size_t)(length - done), offset + done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += n;
    }
    return 0;
}

static int each_block(struct disk *disk, struct verdict *verdict, int fd, uint64_t blocks, judge judge)
{
    static struct block buffer[BATCH];
    for (uint64_t first = 0; first < blocks; first += BATCH) {
        uint64_t count = blocks - first < BATCH ? blocks - first : BATCH;
        if (read_fully(fd, buffer, (int64_t)count * BLOCK, (int64_t)first * BLOCK))
            return -1;
        for (uint64_t i = 0; i < count; i++)
            judge(disk, verdict, &buffer[i], first + i);
    }
    return 0;
}

/* A missing or damaged record counts once a later one is found; until then it is the torn end. */
static int scan_records(struct disk *disk, struct verdict *verdict, int64_t size)
{
    static struct record buffer[BLOCK / sizeof(struct record) * BATCH];
    const int per_read = sizeof buffer / sizeof *buffer;
    uint64_t absent = 0, damaged = 0;
    for (uint64_t number = 1; record_offset(number) < size; number += per_read) {
        if (read_fully(disk->log, buffer, sizeof buffer, record_offset(number)))
            return -1;
        for (int i = 0; i < per_read && record_offset(number + i) < size; i++) {
            if (record_is(&buffer[i], disk->letter, number + i)) {
                if (!absent && !damaged)
                    verdict->contiguous = number + i;
                verdict->highest = number + i;
                verdict->holes = absent;
                verdict->corrupt = damaged;
                disk->state = buffer[i].state;
            } else if (all_zero(&buffer[i], sizeof *buffer)) {
                absent++;
            } else {
                damaged++;
            }
        }
    }
    verdict->torn += damaged - verdict->corrupt;
    return 0;
}

/* Ring block i was last overwritten for the highest number n <= limit with n % RING_BLOCKS == i. */
static uint64_t last_of_block(uint64_t limit, uint64_t index)
{
    uint64_t back = (limit % RING_BLOCKS + RING_BLOCKS - index) % RING_BLOCKS;
    return limit >= back ? limit - back : 0;
}

static void judge_ring(struct disk *disk, struct verdict *verdict, const struct block *block,
                       uint64_t index)
{
    /* Record and ring block are synced together, so only for the highest record and its
     * successor may one of the two be there without the other. */
    uint64_t high = verdict->highest, durable = high ? high - 1 : 0;
    int under_way = index == high % RING_BLOCKS || index == (high + 1) % RING_BLOCKS;
    verdict->ring++;
    if (!block_is_valid(block, disk->letter, KIND_RING, index)) {
        if (under_way)
            verdict->torn++;
        else
            verdict->corrupt++;
    } else if (block->head.number < last_of_block(durable, index) || block->head.number > high + 1) {
        verdict->stale++;
    }
}

static void judge_bulk(struct disk *disk, struct verdict *verdict, const struct block *block,
                       uint64_t index)
{
    const struct state *state = &disk->state;
    int unsettled = state->bulk_intent != state->bulk_done;
    int covered = index < state->bulk_blocks;
    verdict->bulk++;
    if (all_zero(block, BLOCK)) {
        if (covered && !unsettled && state->bulk_kind == BULK_DATA)
            verdict->corrupt++;
    } else if (!block_is_valid(block, disk->letter, KIND_BULK, index)) {
        if (unsettled)
            verdict->torn++;
        else
            verdict->corrupt++;
    } else if (block->head.number > state->bulk_intent) {
        verdict->stale++;
    } else if (covered && block->head.number < state->bulk_done) {
        verdict->stale++;
    } else if (covered && !unsettled && state->bulk_kind == BULK_HOLE) {
        verdict->stale++;
    }
}

static void judge_churn(struct disk *disk, struct verdict *verdict, const struct block *block,
                        uint64_t index)
{
    uint64_t done = disk->state.churn_done, slot = index / CHURN_BLOCKS;
    uint64_t back = (done % CHURN_SLOTS + CHURN_SLOTS - 1 - slot) % CHURN_SLOTS;
    if (disk->state.churn_intent > done && slot == churn_slot(done + 1))
        return;
    verdict->churn++;
    if (done <= back) /* the slot was never used */
        return;
    uint64_t last = done - back;
    int valid = block_is_valid(block, disk->letter, KIND_CHURN, index), zero = all_zero(block, BLOCK);
    if (!valid && !zero)
        verdict->corrupt++;
    else if (churn_kind(last) == CHURN_DATA && (zero || block->head.number != last))
        verdict->stale++;
    else if (churn_kind(last) == CHURN_DISCARD && valid && block->head.number != last - CHURN_SLOTS)
        verdict->stale++; /* a discarded block reads as zeroes or as what was there */
    else if ((churn_kind(last) == CHURN_ZERO || churn_kind(last) == CHURN_ZERO_UNMAP) && !zero)
        verdict->stale++;
}

int scan_disk(struct disk *disk, struct verdict *verdict)
{
    struct stat log, bulk;
    memset(verdict, 0, sizeof *verdict);
    if (fstat(disk->log, &log) || fstat(disk->bulk, &bulk))
        return -1;
    if (log.st_size == 0)
        return 0; /* never started: the ring is renamed into place whole */
    if (scan_records(disk, verdict, log.st_size))
        return -1;
    if (each_block(disk, verdict, disk->log, RING_BLOCKS, judge_ring))
        return -1;
    uint64_t blocks = ((uint64_t)bulk.st_size + BLOCK - 1) / BLOCK;
    if (blocks < disk->state.bulk_blocks)
        blocks = disk->state.bulk_blocks;
    if (each_block(disk, verdict, disk->bulk, blocks, judge_bulk))
        return -1;
    return each_block(disk, verdict, disk->churn, CHURN_SLOTS * CHURN_BLOCKS, judge_churn);
}
