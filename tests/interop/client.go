// Go's x/crypto/ssh: `client CASE ADDRESS:PORT USER KEY PORT-OF-ECHO`; exits with 1 and its words when a claim does not hold.
package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"os"
	"sync"

	"golang.org/x/crypto/ssh"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func claim(holds bool, what ...any) {
	if !holds {
		log.Fatal(what...)
	}
}

func session(c *ssh.Client) *ssh.Session {
	s, err := c.NewSession()
	must(err)
	return s
}

func main() {
	log.SetFlags(log.Lshortfile)
	text, err := os.ReadFile(os.Args[4])
	must(err)
	key, err := ssh.ParsePrivateKey(text)
	must(err)
	config := &ssh.ClientConfig{User: os.Args[3], Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}
	if os.Args[1] == "rekey" {
		config.RekeyThreshold = 1 << 20
	}
	c, err := ssh.Dial("tcp", os.Args[2], config)
	must(err)
	blob := make([]byte, 8<<20)
	rand.Read(blob)
	switch os.Args[1] {
	case "key":
		out, err := session(c).Output("echo in")
		must(err)
		claim(string(out) == "in\n", out)
	case "streams":
		s := session(c)
		var out, errors bytes.Buffer
		s.Stdin, s.Stdout, s.Stderr = bytes.NewReader(blob), &out, &errors
		err := s.Run("tee copy; cat copy >&2; exit 5")
		exit, ok := err.(*ssh.ExitError)
		claim(ok && exit.ExitStatus() == 5, err)
		claim(bytes.Equal(out.Bytes(), blob) && bytes.Equal(errors.Bytes(), blob), "streams")
	case "signal":
		s := session(c)
		out, err := s.StdoutPipe()
		must(err)
		must(s.Start("echo ready; exec sleep 1000"))
		io.ReadFull(out, make([]byte, 6))
		must(s.Signal(ssh.SIGTERM))
		exit, ok := s.Wait().(*ssh.ExitError)
		claim(ok && exit.Signal() == "TERM", exit)
	case "terminal":
		s := session(c)
		must(s.RequestPty("vt220", 33, 77, ssh.TerminalModes{ssh.ECHO: 0}))
		out, err := s.Output("stty size; echo $TERM")
		must(err)
		claim(string(out) == "33 77\r\nvt220\r\n", string(out))
	case "channels":
		var all sync.WaitGroup
		for i := 0; i < 200; i++ {
			all.Add(1)
			go func(i int) {
				defer all.Done()
				out, err := session(c).Output(fmt.Sprint("echo ", i))
				must(err)
				claim(string(out) == fmt.Sprint(i, "\n"), out)
			}(i)
		}
		all.Wait()
	case "rekey":
		s := session(c)
		var out bytes.Buffer
		s.Stdin, s.Stdout = io.MultiReader(bytes.NewReader(blob), bytes.NewReader(blob), bytes.NewReader(blob), bytes.NewReader(blob)), &out
		must(s.Run("cat"))
		claim(bytes.Equal(out.Bytes(), bytes.Repeat(blob, 4)), "bytes")
	case "forwards":
		there, err := c.Dial("tcp", "127.0.0.1:"+os.Args[5])
		must(err)
		go func() {
			there.Write(blob)
			there.(interface{ CloseWrite() error }).CloseWrite()
		}()
		back, err := io.ReadAll(there)
		must(err)
		claim(bytes.Equal(back, blob), "there and back")
		_, err = c.Dial("tcp", "127.0.0.1:1")
		claim(err != nil, "nobody listens there")
		l, err := c.Listen("tcp", "127.0.0.1:0")
		must(err)
		go func() {
			inside, err := c.Dial("tcp", l.Addr().String())
			must(err)
			inside.Write([]byte("hello"))
			inside.Close()
		}()
		taken, err := l.Accept()
		must(err)
		heard, err := io.ReadAll(taken)
		must(err)
		claim(string(heard) == "hello", heard)
		must(l.Close())
	}
	must(c.Close())
}
