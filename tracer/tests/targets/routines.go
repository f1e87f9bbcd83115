// Goroutines that continue on other threads while they are in a call, whose stacks grow in it, and that leave
// it by a panic or by their end.
//
//	routines ROUTINES ROUNDS
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// It waits, and goes on wherever there is a thread.
//
//go:noinline
func waits(n int) int {
	if n%3 == 0 {
		time.Sleep(time.Microsecond)
	} else {
		runtime.Gosched()
	}
	return n + 1
}

// Its stack is too small for it on the way.
//
//go:noinline
func grows(depth int) int {
	var room [128]int
	room[depth%len(room)] = depth
	if depth == 0 {
		return room[0]
	}
	return grows(depth-1) + room[depth%len(room)]
}

//go:noinline
func panics(n int) int {
	if n%2 == 0 {
		panic(errors.New("even"))
	}
	return n
}

// It returns although what it calls does not.
//
//go:noinline
func recovers(n int) (result int) {
	defer func() {
		if recover() != nil {
			result = -1
		}
	}()
	return panics(n)
}

// It has no frame.
//
//go:noinline
func leaf(n int) int { return n * 3 }

type adder interface{ add(int) int }
type one struct{ by int }

//go:noinline
func (o one) add(n int) int { return n + o.by }

// The goroutine ends in it.
//
//go:noinline
func exits(n int) int {
	if n%4 == 0 {
		runtime.Goexit()
	}
	return n
}

//go:noinline
func work(id, rounds int) {
	var a adder = &one{id}
	for n := 0; n < rounds; n++ {
		if waits(n) != n+1 || leaf(n) != n*3 || a.add(n) != n+id {
			panic("wrong")
		}
		want := n
		if n%2 == 0 {
			want = -1
		}
		if recovers(n) != want {
			panic("wrong")
		}
	}
	if grows(40) != 820 {
		panic("wrong")
	}
	exits(id)
}

func main() {
	routines, _ := strconv.Atoi(os.Args[1])
	rounds, _ := strconv.Atoi(os.Args[2])
	var done sync.WaitGroup
	done.Add(routines)
	for id := 0; id < routines; id++ {
		go func(id int) {
			// When the program ends, all calls have returned that do.
			defer done.Done()
			work(id, rounds)
		}(id)
	}
	done.Wait()
	fmt.Println("ended well")
}
