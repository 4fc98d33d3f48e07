;; Copies all files and directories of its first mount to its second, and adds the file `made/note` and the empty directory
;; `made/nothing`. Whatever fails is a trap.
(module
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $create (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (memory (export "memory") 64)
  (data (i32.const 512) "made/nothing")
  (data (i32.const 544) "made/note")
  (data (i32.const 576) "left by the job\n")

  (func $must (param $error i32) (if (local.get $error) (then unreachable)))

  ;; Opens what has this name in a directory: how (1 new, 2 a directory), with which rights (2 to read, 64 to write).
  (func $open (param $dir i32) (param $name i32) (param $len i32) (param $how i32) (param $rights i64) (result i32)
    (call $must (call $path_open (local.get $dir) (i32.const 0) (local.get $name) (local.get $len)
      (local.get $how) (local.get $rights) (local.get $rights) (i32.const 0) (i32.const 16)))
    (i32.load (i32.const 16)))

  (func $write (param $to i32) (param $bytes i32) (param $len i32)
    (i32.store (i32.const 0) (local.get $bytes))
    (i32.store (i32.const 4) (local.get $len))
    (call $must (call $fd_write (local.get $to) (i32.const 0) (i32.const 1) (i32.const 12)))
    (call $must (i32.ne (i32.load (i32.const 12)) (local.get $len))))

  (func $copy_file (param $from i32) (param $to i32)
    (local $len i32)
    (loop $more
      (i32.store (i32.const 0) (i32.const 1048576))
      (i32.store (i32.const 4) (i32.const 65536))
      (call $must (call $fd_read (local.get $from) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $len (i32.load (i32.const 8)))
      (if (local.get $len) (then
        (call $write (local.get $to) (i32.const 1048576) (local.get $len))
        (br $more)))))

  ;; The entries of a directory are listed at `names`, those of the directories in it beyond.
  (func $copy (param $from i32) (param $to i32) (param $names i32)
    (local $end i32) (local $entry i32) (local $name i32) (local $len i32) (local $source i32) (local $target i32)
    (call $must (call $fd_readdir (local.get $from) (local.get $names) (i32.const 8192) (i64.const 0) (i32.const 20)))
    (call $must (i32.eq (i32.load (i32.const 20)) (i32.const 8192)))
    (local.set $entry (local.get $names))
    (local.set $end (i32.add (local.get $names) (i32.load (i32.const 20))))
    (loop $next
      (if (i32.lt_u (local.get $entry) (local.get $end)) (then
        (local.set $len (i32.load offset=16 (local.get $entry)))
        (local.set $name (i32.add (local.get $entry) (i32.const 24)))
        (if (i32.eq (i32.load8_u offset=20 (local.get $entry)) (i32.const 3))
          (then
            ;; Not the directory itself and the one above.
            (if (i32.ne (i32.load8_u (local.get $name)) (i32.const 46)) (then
              (call $must (call $create (local.get $to) (local.get $name) (local.get $len)))
              (local.set $source
                (call $open (local.get $from) (local.get $name) (local.get $len) (i32.const 2) (i64.const 2)))
              (local.set $target
                (call $open (local.get $to) (local.get $name) (local.get $len) (i32.const 2) (i64.const 2)))
              (call $copy (local.get $source) (local.get $target) (i32.add (local.get $names) (i32.const 8192)))
              (call $must (call $fd_close (local.get $source)))
              (call $must (call $fd_close (local.get $target))))))
          (else
            (local.set $source
              (call $open (local.get $from) (local.get $name) (local.get $len) (i32.const 0) (i64.const 2)))
            (local.set $target
              (call $open (local.get $to) (local.get $name) (local.get $len) (i32.const 1) (i64.const 64)))
            (call $copy_file (local.get $source) (local.get $target))
            (call $must (call $fd_close (local.get $source)))
            (call $must (call $fd_close (local.get $target)))))
        (local.set $entry (i32.add (local.get $name) (local.get $len)))
        (br $next)))))

  (func (export "_start")
    (local $note i32)
    (call $copy (i32.const 3) (i32.const 4) (i32.const 65536))
    ;; It is there when the input is an output of this program.
    (drop (call $create (i32.const 4) (i32.const 512) (i32.const 4)))
    (call $must (call $create (i32.const 4) (i32.const 512) (i32.const 12)))
    (local.set $note (call $open (i32.const 4) (i32.const 544) (i32.const 9) (i32.const 1) (i64.const 64)))
    (call $write (local.get $note) (i32.const 576) (i32.const 16))
    (call $must (call $fd_close (local.get $note)))))
