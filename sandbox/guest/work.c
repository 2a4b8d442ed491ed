/* Writes records, overwrites, zeroes and discards, each synced before the next is begun. */
#include "layout.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BLOCKS 256 /* bulk data written between two records: 1 MiB */

struct disk disks[2];
int disk_count, writing;
uint64_t next_record = 1, acked, churn_every = 32;

static const char *log_paths[2];
static int damaged;
static uint64_t operations; /* still asked for */
static int operations_to_record;

static struct {
    struct disk *disk;
    enum bulk kind;
    uint64_t blocks, position;
    int announced; /* the intent is durable in a record */
} bulk;

/* Nothing is acknowledged after an error: the state of the disk is unknown. */
static int failed(const char *what, const struct disk *disk)
{
    say(1, "error: %s on %c: %s", what, disk->letter, strerror(errno));
    writing = 0;
    damaged = 1;
    return -1;
}

static int write_fully(int fd, const void *data, int64_t length, int64_t offset)
{
    for (int64_t done = 0; done < length;) {
        ssize_t n = pwrite(fd, (const char *)data + done, (size_t)(length - done), offset + done);
        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0)
            done += n;
    }
    return 0;
}

static int write_blocks(int fd, char disk, enum kind kind, uint64_t number, uint64_t first,
                        uint64_t count)
{
    static struct block buffer[64];
    for (uint64_t i = 0; i < count;) {
        uint64_t n = count - i < 64 ? count - i : 64;
        for (uint64_t j = 0; j < n; j++)
            make_block(&buffer[j], disk, kind, number, first + i + j);
        if (write_fully(fd, buffer, (int64_t)n * BLOCK, (int64_t)(first + i) * BLOCK))
            return -1;
        i += n;
    }
    return 0;
}

/* --- what is found ------------------------------------------------------------------------ */

static void say_count(char *text, int size, int index, const struct verdict *verdict)
{
    if (index >= disk_count)
        snprintf(text, (size_t)size, "none");
    else if (!disks[index].present)
        snprintf(text, (size_t)size, "missing");
    else
        snprintf(text, (size_t)size, "%llu", (unsigned long long)verdict[index].contiguous);
}

static void say_disk(const struct disk *disk, const struct verdict *v)
{
    say(1, "disk %c: highest=%llu ring=%llu bulk=%llu churn=%llu operations=%llu epoch=%u",
        disk->letter, (unsigned long long)v->highest, (unsigned long long)v->ring,
        (unsigned long long)v->bulk, (unsigned long long)v->churn,
        (unsigned long long)disk->state.churn_done, disk->state.epoch);
}

/* The invariant over both disks at one instant: A is at B's record or one ahead. */
static int out_of_step(const struct verdict *v)
{
    return disk_count == 2 && (!disks[1].present || v[0].highest < v[1].highest ||
                               v[0].highest > v[1].highest + 1);
}

void report(void)
{
    struct verdict v[2] = {{0}, {0}}, sum = {0};
    char count[2][24];
    for (int i = 0; i < disk_count; i++) {
        if (disks[i].present && scan_disk(&disks[i], &v[i])) {
            failed("read", &disks[i]);
            sum.corrupt++;
        }
        sum.holes += v[i].holes;
        sum.corrupt += v[i].corrupt;
        sum.stale += v[i].stale;
        sum.torn += v[i].torn;
        if (disks[i].present)
            say_disk(&disks[i], &v[i]);
    }
    say_count(count[0], sizeof count[0], 0, v);
    say_count(count[1], sizeof count[1], 1, v);
    int apart = out_of_step(v);
    damaged = sum.holes || sum.corrupt || sum.stale || apart;
    say(1, "found records: A=%s B=%s holes=%llu corrupt=%llu stale=%llu torn=%llu in_step=%s %s",
        count[0], count[1], (unsigned long long)sum.holes, (unsigned long long)sum.corrupt,
        (unsigned long long)sum.stale, (unsigned long long)sum.torn, apart ? "no" : "yes",
        damaged ? "DAMAGED" : "intact");
    next_record = v[0].contiguous + 1;
    if (disk_count == 2 && v[1].contiguous < v[0].contiguous)
        next_record = v[1].contiguous + 1;
    acked = next_record - 1;
}

/* --- starting ----------------------------------------------------------------------------- */

static int sync_folder_of(const char *path)
{
    char folder[256];
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY);
    int result = fd < 0 ? -1 : fsync(fd);
    close(fd);
    return result;
}

/* A fresh log appears whole or not at all. */
static int make_log(struct disk *disk, const char *path)
{
    char fresh[256];
    snprintf(fresh, sizeof fresh, "%s.new", path);
    int fd = open(fresh, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return failed("create", disk);
    for (uint64_t i = 0; i < RING_BLOCKS; i++)
        if (write_blocks(fd, disk->letter, KIND_RING, 0, i, 1))
            return failed("write", disk);
    if (fsync(fd) || rename(fresh, path) || sync_folder_of(path))
        return failed("sync", disk);
    close(disk->log);
    disk->log = fd;
    return 0;
}

/* What the last run left half done and unacknowledged is taken away. */
static int settle(struct disk *disk, const char *path)
{
    struct stat log;
    if (fstat(disk->log, &log))
        return failed("stat", disk);
    if (log.st_size == 0 ? make_log(disk, path) : ftruncate(disk->log, record_offset(next_record)))
        return failed("truncate", disk);
    if (disk->state.bulk_intent != disk->state.bulk_done) {
        if (ftruncate(disk->bulk, 0))
            return failed("truncate", disk);
        disk->state.bulk_done = ++disk->state.bulk_intent;
        disk->state.bulk_blocks = 0;
        disk->state.bulk_kind = BULK_HOLE;
    }
    disk->state.epoch++;
    return fsync(disk->log) || fsync(disk->bulk) ? failed("sync", disk) : 0;
}

void start_writing(void)
{
    if (damaged) {
        say(0, "error: what is on the disks is damaged; not writing over it");
        return;
    }
    if (disk_count == 2 && disks[1].state.churn_done < disks[0].state.churn_done)
        disks[0].state.churn_done = disks[1].state.churn_done; /* done again on both */
    for (int i = 0; i < disk_count; i++)
        if (!writing && settle(&disks[i], log_paths[i]))
            return;
    writing = 1;
    say(0, "ok start next=%llu", (unsigned long long)next_record);
}

void stop_writing(void)
{
    writing = 0;
    bulk.disk = NULL; /* `start` takes away what is half done */
    operations = 0;
    operations_to_record = 0;
}

/* --- writing ------------------------------------------------------------------------------ */

static int write_record(struct disk *disk, uint64_t number)
{
    struct record record;
    if (write_blocks(disk->log, disk->letter, KIND_RING, number, number % RING_BLOCKS, 1))
        return failed("overwrite", disk);
    make_record(&record, disk->letter, number, &disk->state);
    if (write_fully(disk->log, &record, sizeof record, record_offset(number)))
        return failed("append", disk);
    return fdatasync(disk->log) ? failed("sync", disk) : 0;
}

/* On a block device ZERO_RANGE sends a zero-write that must not unmap, PUNCH_HOLE one that may.
 * Both work on a plain file too, so that the writer can be tested without a guest. */
static int take_away(struct disk *disk, enum churn kind, uint64_t offset)
{
    static const char zeroes[CHURN_BYTES];
    uint64_t range[2] = {offset, CHURN_BYTES};
    if (kind == CHURN_DISCARD) /* without discard the old bytes stay, which the report allows */
        return ioctl(disk->churn, BLKDISCARD, range) && errno != EOPNOTSUPP && errno != ENOTTY;
    int mode = kind == CHURN_ZERO ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
    if (!fallocate(disk->churn, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, CHURN_BYTES))
        return 0;
    if (errno != EOPNOTSUPP)
        return -1;
    return write_fully(disk->churn, zeroes, CHURN_BYTES, (int64_t)offset);
}

static int churn(struct disk *disk)
{
    uint64_t operation = disk->state.churn_done + 1, slot = churn_slot(operation);
    int bad = churn_kind(operation) == CHURN_DATA
                  ? write_blocks(disk->churn, disk->letter, KIND_CHURN, operation,
                                 slot * CHURN_BLOCKS, CHURN_BLOCKS)
                  : take_away(disk, churn_kind(operation), slot * CHURN_BYTES);
    if (bad || fsync(disk->churn))
        return failed("churn", disk);
    disk->state.churn_done = operation;
    return 0;
}

/* The record says what is begun after it, so the operation follows it. */
void write_next(void)
{
    int turn = operations || (churn_every && next_record % churn_every == 0);
    for (int i = 0; i < disk_count; i++) {
        disks[i].state.churn_intent = disks[i].state.churn_done + (turn ? 1 : 0);
        if (write_record(&disks[i], next_record))
            return;
    }
    acked = next_record++;
    if (bulk.disk)
        bulk.announced = 1;
    if (operations_to_record && !operations) {
        operations_to_record = 0;
        say(0, "ok ops total=%llu", (unsigned long long)disks[0].state.churn_done);
    }
    for (int i = 0; turn && i < disk_count; i++)
        if (churn(&disks[i]))
            return;
    if (turn && operations)
        operations--;
}

int record_is_wanted(void)
{
    return writing && (operations_to_record || (bulk.disk && !bulk.announced));
}

void start_operations(uint64_t count)
{
    operations = count;
    operations_to_record = 1;
}

static void finish_bulk(void)
{
    struct state *state = &bulk.disk->state;
    if (fsync(bulk.disk->bulk)) {
        failed("sync bulk", bulk.disk);
        return;
    }
    state->bulk_done = state->bulk_intent;
    state->bulk_blocks = bulk.blocks;
    state->bulk_kind = bulk.kind;
    say(0, "ok %s %c blocks=%llu generation=%llu", bulk.kind == BULK_DATA ? "burst" : "punch",
        bulk.disk->letter, (unsigned long long)bulk.blocks, (unsigned long long)state->bulk_done);
    bulk.disk = NULL;
}

void write_bulk(void)
{
    uint64_t count = bulk.blocks - bulk.position;
    if (bulk.kind == BULK_HOLE) {
        if (count && fallocate(bulk.disk->bulk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                               (off_t)bulk.blocks * BLOCK)) {
            failed("punch", bulk.disk);
            return;
        }
        bulk.position = bulk.blocks;
    } else {
        count = count < CHUNK_BLOCKS ? count : CHUNK_BLOCKS;
        if (write_blocks(bulk.disk->bulk, bulk.disk->letter, KIND_BULK,
                         bulk.disk->state.bulk_intent, bulk.position, count)) {
            failed("write bulk", bulk.disk);
            return;
        }
        bulk.position += count;
    }
    if (bulk.position == bulk.blocks)
        finish_bulk();
}

void start_bulk(enum bulk kind, uint64_t size, char letter)
{
    struct disk *disk = letter == 'B' ? &disks[1] : &disks[0];
    struct stat file;
    if (!writing || bulk.disk || !disk->present || fstat(disk->bulk, &file)) {
        say(0, "error: %s", bulk.disk ? "a burst is under way" : "not writing to that disk");
        return;
    }
    bulk.disk = disk;
    bulk.kind = kind;
    bulk.blocks = (kind == BULK_DATA ? size : (uint64_t)file.st_size) / BLOCK;
    bulk.position = 0;
    bulk.announced = 0;
    disk->state.bulk_intent = disk->state.bulk_done + 1; /* the next record says so */
}

int bulk_is_under_way(void) { return writing && bulk.disk && bulk.announced; }

void open_disk(int index, char **paths)
{
    struct disk *disk = &disks[index];
    disk->letter = (char)('A' + index);
    disk->log = open(paths[0], O_RDWR);
    disk->bulk = open(paths[1], O_RDWR);
    disk->churn = open(paths[2], O_RDWR);
    disk->present = disk->log >= 0 && disk->bulk >= 0 && disk->churn >= 0;
    log_paths[index] = paths[0];
    disk_count = index + 1;
}
