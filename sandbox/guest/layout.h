/* What the writer leaves on a disk, and how it is judged after a power cut at any instant.
 *
 * Each disk has a log file on ext4 (a ring of blocks that are overwritten in place, then the
 * records, appended), a bulk file on ext4, and a raw "churn" partition. A record is written
 * only after every earlier one is durable on both disks, and carries what was durable before
 * it and what is begun after it. So the highest record found tells exactly what else has to be
 * there, and which few places may be in between.
 */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <stdint.h>

#define BLOCK 4096
#define RING_BLOCKS 2048
#define RING_BYTES ((int64_t)RING_BLOCKS * BLOCK)
/* 512 KiB: a whole block of the EBS direct API and a multiple of QEMU's 64 KiB granules. */
#define CHURN_BYTES (512 * 1024)
#define CHURN_SLOTS 8
#define CHURN_BLOCKS (CHURN_BYTES / BLOCK)

enum kind { KIND_RECORD = 1, KIND_RING = 2, KIND_BULK = 3, KIND_CHURN = 4 };
enum bulk { BULK_HOLE = 0, BULK_DATA = 1 };
enum churn { CHURN_DATA, CHURN_ZERO, CHURN_ZERO_UNMAP, CHURN_DISCARD };

struct head {
    uint64_t magic;
    uint32_t disk; /* 'A' or 'B': a record that landed on the wrong disk does not count */
    uint32_t kind;
    uint64_t number; /* record, or generation of a bulk or churn block */
    uint64_t index;  /* slot or block: a block that landed at the wrong offset does not count */
};

struct state {
    uint64_t churn_done;   /* operations 1..n are durable */
    uint64_t churn_intent; /* operation that may be under way; equal to churn_done when none is */
    uint64_t bulk_done;    /* generation that is durable */
    uint64_t bulk_intent;  /* generation that may be under way; equal to bulk_done when none is */
    uint64_t bulk_blocks;  /* blocks that generation bulk_done covers */
    uint32_t bulk_kind;    /* what it put there */
    uint32_t epoch;        /* how often writing was started on this disk */
};

struct record {
    struct head head;
    struct state state;
    uint8_t filler[40];
    uint64_t sum;
};

struct block {
    struct head head;
    uint64_t payload[(BLOCK - sizeof(struct head) - 8) / 8];
    uint64_t sum;
};

_Static_assert(sizeof(struct record) == 128, "32 records share one block, so stale blocks show");
_Static_assert(sizeof(struct block) == BLOCK, "one file system block");

struct disk {
    char letter;
    int present;
    int log, bulk, churn;
    struct state state;
};

struct verdict {
    uint64_t contiguous, highest; /* records */
    uint64_t holes, corrupt;      /* records below the highest that are absent or damaged */
    uint64_t stale;               /* overwritten blocks older or newer than the records allow */
    uint64_t torn;                /* damage that a power cut explains: never acknowledged */
    uint64_t ring, bulk, churn;   /* blocks that were compared */
};

/* layout.c */
int64_t record_offset(uint64_t number);
enum churn churn_kind(uint64_t operation);
uint64_t churn_slot(uint64_t operation);
void make_record(struct record *record, char disk, uint64_t number, const struct state *state);
int record_is(const struct record *record, char disk, uint64_t number);
void make_block(struct block *block, char disk, enum kind kind, uint64_t number, uint64_t index);
int block_is_valid(const struct block *block, char disk, enum kind kind, uint64_t index);
int all_zero(const void *data, int length);

/* scan.c: reads only. */
int scan_disk(struct disk *disk, struct verdict *verdict);

/* work.c: writes and judges; an error stops the writing and is said. */
extern struct disk disks[2];
extern int disk_count;      /* how many there should be */
extern int writing;
extern uint64_t acked;      /* records 1..n are durable on every disk */
extern uint64_t next_record;
extern uint64_t churn_every; /* records per operation on the raw partition; 0 for none */

void open_disk(int index, char **paths);
void report(void);
void start_writing(void);
void stop_writing(void);
void write_next(void);
int record_is_wanted(void); /* at once, whatever the rate is */
void start_operations(uint64_t count);
void start_bulk(enum bulk kind, uint64_t size, char letter);
int bulk_is_under_way(void);
void write_bulk(void);

/* console.c: one line on the serial console; with `screen_too` also where a screenshot sees it. */
void quiet_console(void);
void say(int screen_too, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
